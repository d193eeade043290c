// Which frame is due while a video plays, and how many are shown.

const LATE = 1.6; // times the interval of frames
const MOST_LATE = 3; // late frames until fewer pixels are rendered

/** The time of a video that plays. */
export class Clock {
  /** Starts, or goes on from, a frame. @param {Float64Array} times of frames and of the end, s @param {number} speed */
  start(frame, times, speed) {
    Object.assign(this, { frame, times, speed, from: times[frame], begun: performance.now(), shown: [], slow: 0 });
  }

  /** @returns {number} the frame that is due; after the last one the video starts again */
  due(now) {
    const time = this.from + Math.max(0, ((now - this.begun) * this.speed) / 1000) + 1e-5;
    if (time < this.times.at(-1)) while (this.times[this.frame + 1] <= time) this.frame += 1;
    else Object.assign(this, { frame: 0, from: 0, begun: now });
    return this.frame;
  }

  /** Notes that a frame was shown. @returns {{rate, late}} frames in the last second; whether they lag */
  note(now) {
    const last = this.shown.at(-1);
    this.shown = [...this.shown.filter((time) => time > now - 1000), now];
    const before = (this.frame || this.times.length - 1) - 1;
    const interval = (1000 * (this.times[before + 1] - this.times[before])) / this.speed;
    const isLate = last !== undefined && now - last > LATE * Math.max(interval, 17);
    this.slow = isLate ? this.slow + 1 : Math.max(0, this.slow - 1);
    const late = this.slow > MOST_LATE;
    if (late) this.slow = 0;
    const span = now - this.shown[0];
    return { rate: span > 0 ? ((this.shown.length - 1) * 1000) / span : 0, late };
  }
}
