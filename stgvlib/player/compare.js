// A reference video beside the fitted one: the frame at the same time, and PSNR against it.

const LONGEST_WAIT = 100; // ms, for a frame after its seek: in a hidden tab, or of the same frame, none is presented

/** A video that the browser decodes. */
export class Reference {
  /** @param {Blob} blob @param {object} header of the file that it is compared with @param {Float64Array} times in s */
  constructor(blob, header, times) {
    this.times = times;
    this.url = URL.createObjectURL(blob);
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.preload = "auto";
    this.canvas = document.createElement("canvas");
    [this.canvas.height, this.canvas.width] = header.size;
    this.wanted = null;
    this.busy = false;
  }

  /** Waits until the video can be shown. Rejects where the browser does not know its codec. */
  open() {
    return new Promise((resolve, reject) => {
      this.video.onloadeddata = () => resolve(this);
      const message = "This browser cannot decode the reference video. Try an H.264 .mp4.";
      this.video.onerror = () => reject(new Error(message));
      this.video.src = this.url;
    });
  }

  /** Finds frame `number` and calls `done(canvas)`; of several that are asked for, only the last is found. */
  async find(number, done) {
    this.wanted = number;
    if (this.busy) return;
    this.busy = true;
    while (this.wanted !== null) {
      const target = this.wanted;
      this.wanted = null;
      const [begins, ends] = [this.times[target], this.times[target + 1]];
      await this.seek((begins + ends) / 2, ends - begins);
      const { width, height } = this.canvas;
      this.canvas.getContext("2d", { willReadFrequently: true }).drawImage(this.video, 0, 0, width, height);
      done(this.canvas, target);
    }
    this.busy = false;
  }

  /** Seeks, and waits for the frame at `time`, `span` seconds long, which a browser may present after `seeked`. */
  async seek(time, span) {
    const { video } = this;
    const presented = new Promise((resolve) => {
      if (!video.requestVideoFrameCallback) return resolve();
      const look = (_, { mediaTime }) => {
        if (Math.abs(mediaTime - time) <= span) resolve();
        else video.requestVideoFrameCallback(look);
      };
      video.requestVideoFrameCallback(look);
    });
    await new Promise((resolve) => {
      video.onseeked = resolve;
      video.currentTime = Math.min(time, Math.max(video.duration - 0.001, 0));
    });
    await Promise.race([presented, new Promise((resolve) => setTimeout(resolve, LONGEST_WAIT))]);
  }

  /** Frees the video. */
  close() {
    this.wanted = null;
    this.video.removeAttribute("src");
    URL.revokeObjectURL(this.url);
  }
}

/** PSNR in dB of a float picture, clamped to [0, 1], against 8-bit pixels of four channels. */
export function psnr(rgb, pixels) {
  let sum = 0;
  for (let i = 0; i < rgb.length / 3; i++) {
    for (let c = 0; c < 3; c++) {
      const difference = Math.min(Math.max(rgb[3 * i + c], 0), 1) - pixels[4 * i + c] / 255;
      sum += difference * difference;
    }
  }
  return -10 * Math.log10(Math.max(sum / rgb.length, 1e-12));
}
