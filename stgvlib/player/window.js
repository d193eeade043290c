// Which part of the frame the canvas shows.

const MOST_ZOOM = 400;
const ratio = () => globalThis.devicePixelRatio || 1; // px of a canvas in a CSS px

/** Zoom and centre over a canvas. Zoom 1 shows the whole frame. */
export class Window {
  /** @param {HTMLCanvasElement} canvas @param {object} header of the file */
  constructor(canvas, header) {
    this.canvas = canvas;
    this.size = [header.size[1], header.size[0]]; // width, height
    this.aspect = header.sample_aspect[0] / header.sample_aspect[1];
    this.fit();
  }

  /** Shows the whole frame. */
  fit() {
    this.zoom = 1;
    this.centre = [0.5, 0.5];
  }

  /** @returns {{scale, offset}} from px of the fitted frame to px of the canvas; the centre stays in the frame */
  view() {
    const extent = [this.canvas.width, this.canvas.height];
    const fit = Math.min(extent[0] / (this.size[0] * this.aspect), extent[1] / this.size[1]);
    const scale = [fit * this.zoom * this.aspect, fit * this.zoom];
    const offset = extent.map((length, d) => {
      const shown = length / (this.size[d] * scale[d]); // in frames
      const half = Math.min(shown / 2, 0.5);
      this.centre[d] = Math.min(Math.max(this.centre[d], half), 1 - half);
      return length / 2 - this.centre[d] * this.size[d] * scale[d];
    });
    return { scale, offset };
  }

  /** @returns {number[]} px of the fitted frame at a point in CSS px of the canvas */
  inFrame(point) {
    const { scale, offset } = this.view();
    return point.map((v, d) => (v * ratio() - offset[d]) / scale[d]);
  }

  /** Zooms about a point in CSS px of the canvas, or about its middle. */
  zoomBy(factor, point = null) {
    const middle = [this.canvas.width / 2, this.canvas.height / 2];
    const at = point ? point.map((v) => v * ratio()) : middle;
    const fixed = this.inFrame(at.map((v) => v / ratio()));
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), MOST_ZOOM);
    const { scale } = this.view();
    this.centre = fixed.map((v, d) => (v + (middle[d] - at[d]) / scale[d]) / this.size[d]);
  }

  /** Moves the picture by CSS px. */
  panBy(dx, dy) {
    const { scale } = this.view();
    [dx, dy].forEach((moved, d) => (this.centre[d] -= (moved * ratio()) / (scale[d] * this.size[d])));
  }
}
