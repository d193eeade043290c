// Which frame is due while a video plays, and how many are shown.

const LATE = 1.6; // times the interval of frames
const MOST_LATE = 3; // late frames until fewer pixels are rendered

/** The time of a video that plays. */
export class Clock {
  /** Starts, or goes on from, a frame. @param {number} rate frames a second */
  start(frame, rate) {
    Object.assign(this, { frame, rate, begun: performance.now(), shown: [], slow: 0 });
  }

  /** @returns {number} the frame that is due; after the last one the video starts again */
  due(now, total) {
    const frame = this.frame + Math.max(0, Math.floor(((now - this.begun) * this.rate) / 1000 + 1e-3));
    if (frame < total) return frame;
    Object.assign(this, { frame: 0, begun: now });
    return 0;
  }

  /** Notes that a frame was shown. @returns {{rate, late}} frames in the last second; whether they lag */
  note(now) {
    const last = this.shown.at(-1);
    this.shown = [...this.shown.filter((time) => time > now - 1000), now];
    const isLate = last !== undefined && now - last > LATE * Math.max(1000 / this.rate, 17);
    this.slow = isLate ? this.slow + 1 : Math.max(0, this.slow - 1);
    const late = this.slow > MOST_LATE;
    if (late) this.slow = 0;
    const span = now - this.shown[0];
    return { rate: span > 0 ? ((this.shown.length - 1) * 1000) / span : 0, late };
  }
}
