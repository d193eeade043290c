// The player: opens a file, keeps time, and draws the frame that is asked for at the zoom that is asked for.

import { FileError } from "./entropy.js";
import { checkPairs, timesOf } from "./header.js";
import { openFile } from "./format.js";
import { keyFrameOf } from "./keyframes.js";
import { Gops } from "./predict.js";
import { Renderer } from "./render.js";
import { Reference, psnr } from "./compare.js";
import { drawOverlay, numbersOf, strongestAt } from "./overlay.js";
import { LEGENDS, buildControls, drawMarks, element, factsOf, offerViews, setIcon } from "./controls.js";
import { Clock } from "./clock.js";
import { Window } from "./window.js";
import { listenToFiles, listenToKeys, listenToPointers } from "./input.js";

const PAINT = { motion: 1, size: 2 };
const SILENT = { static: "temporal", dynamic: "spatial" };
const MODE = { split: 1, error: 2 };

/** One player in an element. `keys` is where keys are listened to; without it, the element. */
export class Player {
  constructor(root, keys = root) {
    this.root = root;
    root.classList.add("stgv");
    root.tabIndex = -1;
    this.poster = root.querySelector(".poster");
    this.parts = buildControls(root);
    if (this.poster) this.parts.stage.prepend(this.poster);
    this.file = null;
    this.renderer = null;
    this.reference = null;
    this.clock = new Clock();
    this.reset();
    this.connect(keys);
  }

  reset() {
    this.pause();
    Object.assign(this, { frame: 0, total: 0, starts: [], keyFrames: new Map(), damaged: new Map(), picked: null });
    Object.assign(this, { window: null, ratio: 1, compared: null });
  }

  connect(keys) {
    const { parts } = this;
    parts.play.addEventListener("click", () => this.toggle());
    parts.back.addEventListener("click", () => this.go(this.frame - 1));
    parts.next.addEventListener("click", () => this.go(this.frame + 1));
    parts.time.addEventListener("input", () => this.go(Number(parts.time.value)));
    parts.smaller.addEventListener("click", () => this.zoomBy(0.8));
    parts.larger.addEventListener("click", () => this.zoomBy(1.25));
    parts.zoom.addEventListener("click", () => this.fit());
    parts.full.addEventListener("click", () => this.fullScreen());
    parts.speed.addEventListener("change", () => this.restartClock());
    parts.view.addEventListener("change", () => this.viewChanged());
    parts.resolution.addEventListener("change", () => ((this.ratio = 1), this.ask()));
    const drawn = [parts.ellipses.input, parts.arrows.input, parts.split];
    for (const input of drawn) input.addEventListener("input", () => this.ask());
    listenToKeys(keys, this);
    listenToPointers(parts.stage, this);
    listenToFiles(this.root, parts, this);
    new ResizeObserver(() => this.resized()).observe(parts.stage);
    parts.picture.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.pause();
      this.tell("The GPU was lost. The picture comes back when the browser has one again.");
    });
    parts.picture.addEventListener("webglcontextrestored", () => {
      if (this.file) this.open(this.file.data, this.file.name);
    });
  }

  /** Opens the files that were dropped or chosen: a .stgv file, a reference video, or both. */
  async take(files) {
    for (const file of files) {
      if (file.type.startsWith("video/") && !file.name.endsWith(".stgv")) await this.compareWith(file);
      else this.open(new Uint8Array(await file.arrayBuffer()), file.name);
    }
  }

  /** Plays a file's bytes. What cannot be shown gives one line, and the player takes another file. */
  open(data, name) {
    this.closeFile();
    this.parts.name.textContent = name;
    this.parts.name.title = name;
    try {
      const file = { ...openFile(data), data, name };
      this.gops = new Gops(file);
      this.renderer = new Renderer(this.parts.picture, file.header, (gop) => this.decode(file, gop));
      this.file = file;
    } catch (error) {
      this.fail(error);
      return;
    }
    this.window = new Window(this.parts.picture, this.file.header);
    this.times = timesOf(this.file.header);
    this.total = this.times.length - 1;
    this.file.header.frames.reduce((start, n) => (this.starts.push(start), start + n), 0);
    this.parts.time.max = this.total - 1;
    offerViews(this.parts, this.file.header.field, false);
    this.tell("");
    this.damaged = new Map(this.file.faults);
    this.tellDamage();
    const slow = this.renderer.moves && !this.renderer.deformProgram;
    const facts = [...factsOf(this.file, this.total), ...(slow ? ["field on the CPU"] : [])];
    this.parts.facts.textContent = facts.join(" · ");
    this.resized();
    this.draw();
    this.later(() => this.findKeyFrames(0, this.file));
  }

  closeFile() {
    this.reset();
    this.renderer?.close();
    this.reference?.close();
    Object.assign(this, { file: null, renderer: null, reference: null });
    const { parts } = this;
    offerViews(parts, null, false);
    this.viewChanged();
    [parts.facts.textContent, parts.frame.textContent] = ["Drop a .stgv file here, or choose one.", "–"];
    parts.numbers.hidden = true;
    parts.time.value = 0;
    this.marks();
  }

  fail(error) {
    const known = error instanceof FileError;
    this.tell(known ? error.message : `The file cannot be shown: ${String(error.message ?? error).slice(0, 150)}.`);
    this.file = null;
    this.renderer = null;
    const gl = this.parts.picture.getContext("webgl2");
    gl?.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl?.clearColor(0, 0, 0, 0);
    gl?.clear(gl.COLOR_BUFFER_BIT);
    this.parts.overlay.width = 1;
  }

  /** A GoP's integers as Gaussians and field; null, and a line on the page, where it is damaged. */
  decode(file, gop) {
    try {
      const decoded = this.gops.at(gop);
      checkPairs(decoded, file.header.size, file.bytes);
      return decoded;
    } catch (error) {
      this.damaged.set(gop, error instanceof FileError ? error.message : "cannot be decoded");
      this.tellDamage();
      return null;
    }
  }

  tellDamage() {
    if (!this.damaged.size) return;
    const first = [...this.damaged].slice(0, 3).map(([gop, why]) => `Group ${gop + 1} ${why}.`);
    const more = this.damaged.size > 3 ? ` ${this.damaged.size - 3} more are damaged.` : "";
    this.tell(`The file is damaged: ${first.join(" ")}${more} Frames of damaged groups are black.`);
  }

  tell(text) {
    this.parts.message.textContent = text;
    this.parts.message.hidden = !text;
  }

  // Time

  /** GoP and frame within it of a frame of the video. */
  place(frame) {
    let gop = this.starts.length - 1;
    while (gop > 0 && this.starts[gop] > frame) gop -= 1;
    return [gop, frame - this.starts[gop]];
  }

  /** Shows a frame; numbers beyond the ends mean the ends. */
  go(frame) {
    if (!this.total) return;
    this.frame = Math.min(Math.max(Math.round(frame), 0), this.total - 1);
    this.restartClock();
    this.ask();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (!this.total) return;
    if (this.frame === this.total - 1) this.frame = 0;
    this.playing = true;
    setIcon(this.parts.play, "pause", "Pause (space)");
    this.restartClock();
    this.ask();
  }

  pause() {
    this.playing = false;
    if (!this.parts) return;
    setIcon(this.parts.play, "play", "Play (space)");
    this.parts.rate.textContent = "";
    this.ratio = 1;
    this.ask();
  }

  restartClock() {
    if (this.file) this.clock.start(this.frame, this.times, Number(this.parts.speed.value));
  }

  /** Draws soon, once, however often it is asked. */
  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame((now) => {
      this.asked = false;
      this.tick(now);
    });
  }

  tick(now) {
    if (!this.file) return;
    if (!this.playing) {
      this.draw();
      return;
    }
    const due = this.clock.due(now);
    if (due !== this.frame || !this.clock.shown.length) {
      this.frame = due;
      this.draw();
      const { rate, late } = this.clock.note(now);
      if (rate) this.parts.rate.textContent = `${rate.toFixed(1)} frames/s`;
      if (late && this.ratio > 0.25) this.ratio /= 2; // until the player pauses
    }
    this.gops.advance(Math.min(this.place(due)[0] + 1, this.starts.length - 1), 8);
    this.ask();
  }

  later(task) {
    if (globalThis.requestIdleCallback) requestIdleCallback(task, { timeout: 500 });
    else setTimeout(task, 50);
  }

  /** Marks, group after group while nothing else is to do, the frame nearest to the canonical Gaussians. */
  findKeyFrames(gop, file) {
    if (this.file !== file || gop >= this.starts.length) return;
    if (!this.playing && this.gops.advance(gop)) {
      try {
        const decoded = this.gops.at(gop);
        const moves = decoded.count && this.renderer.moves;
        if (moves) this.keyFrames.set(gop, this.starts[gop] + keyFrameOf(decoded, file.header, gop));
      } catch {} // a damaged group is named when it is shown
      this.marks();
      gop += 1;
    }
    setTimeout(() => this.later(() => this.findKeyFrames(gop, file)), this.playing ? 500 : 0);
  }

  marks() {
    const predicted = (gop) => this.gops.isPredicted(gop);
    drawMarks(this.parts.marks, this.starts, this.total, this.keyFrames.values(), predicted);
  }

  // View

  resized() {
    const { picture, overlay, stage, marks } = this.parts;
    const ratio = globalThis.devicePixelRatio || 1;
    const sides = [stage.clientWidth, stage.clientHeight];
    const [width, height] = sides.map((side) => Math.max(1, Math.round(side * ratio)));
    for (const canvas of [picture, overlay]) {
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
    if (!this.file) return;
    if (marks.clientWidth) this.marks();
    this.draw();
  }

  zoomBy(factor, point = null) {
    if (this.file) this.window.zoomBy(factor, point);
    this.ask();
  }

  panBy(dx, dy) {
    if (this.file) this.window.panBy(dx, dy);
    this.ask();
  }

  fit() {
    this.window?.fit();
    this.ask();
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.root.requestFullscreen?.().catch(() => {});
  }

  viewChanged() {
    const { legend, split, view } = this.parts;
    legend.textContent = LEGENDS[view.value] ?? "";
    legend.hidden = !legend.textContent;
    split.hidden = view.value !== "split";
    this.ask();
  }

  // Drawing

  draw() {
    if (!this.file) return;
    try {
      this.drawFrame();
    } catch (error) {
      this.fail(error);
    }
  }

  how() {
    const { value } = this.parts.view;
    return { canonical: value === "canonical", silent: SILENT[value] ?? null, paint: PAINT[value] ?? 0 };
  }

  drawFrame() {
    const { parts, renderer, file } = this;
    const { picture } = parts;
    const [gop, index] = this.place(this.frame);
    parts.frame.textContent = "decoding";
    if (!this.renderer.gops.has(gop) && !this.gops.advance(gop)) return this.ask(); // a little at a time
    const how = this.how();
    const view = this.window.view();
    const ratio = parts.resolution.value === "auto" ? this.ratio : Number(parts.resolution.value);
    const size = [picture.width, picture.height].map((side) => Math.ceil(side * ratio));
    const scaled = { scale: view.scale.map((v) => v * ratio), offset: view.offset.map((v) => v * ratio) };
    renderer.splat(gop, index, size, scaled, how);
    const mode = this.reference ? MODE[parts.view.value] ?? 0 : 0;
    renderer.show(scaled, ratio, { ...how, mode, split: Number(parts.split.value) });
    this.poster?.remove();
    this.poster = null;
    const [ellipses, arrows] = [parts.ellipses.input.checked, parts.arrows.input.checked];
    const needed = ellipses || arrows || this.picked?.gop === gop;
    const gaussians = needed ? renderer.gaussians(gop, index, how) : null;
    const picked = this.picked?.gop === gop ? this.picked.number : null;
    drawOverlay(parts.overlay.getContext("2d"), gaussians, view, { ellipses, arrows, picked });
    parts.numbers.hidden = picked === null;
    if (picked !== null) {
      const terms = ([name, value]) => [element("dt", {}, name), element("dd", {}, value)];
      parts.numbers.replaceChildren(...numbersOf(gaussians, picked).flatMap(terms));
    }
    parts.time.value = this.frame;
    parts.time.setAttribute("aria-valuetext", `frame ${this.frame} of group ${gop + 1}`);
    parts.zoom.textContent = `${Math.round(this.window.zoom * 100)} %`;
    const place = [`${this.frame} / ${this.total - 1}`, `group ${gop + 1}/${file.header.frames.length}`];
    if (this.compared?.frame === this.frame) place.push(`${this.compared.psnr.toFixed(2)} dB`);
    parts.frame.textContent = place.join(" · ");
    if (this.reference && this.compared?.frame !== this.frame) this.compareFrame();
  }

  /** Picks the Gaussian that adds most at a point in CSS px of the stage; the one that is picked is let go. */
  pick(point) {
    if (!this.file) return;
    const [x, y] = this.window.inFrame(point);
    const [gop, index] = this.place(this.frame);
    const gaussians = this.renderer.gaussians(gop, index, this.how());
    const number = strongestAt(gaussians, x, y);
    const again = this.picked?.gop === gop && this.picked.number === number;
    this.picked = number === null || again ? null : { gop, number };
    this.ask();
  }

  // Reference

  /** Compares with a video, frame by frame: PSNR, a split picture, an error map. */
  async compareWith(blob) {
    if (!this.file) {
      this.tell("A reference video needs a .stgv file: open that first.");
      return;
    }
    this.reference?.close();
    this.reference = null;
    try {
      this.reference = await new Reference(blob, this.file.header, this.times).open();
    } catch (error) {
      this.tell(error.message);
      return;
    }
    offerViews(this.parts, this.file.header.field, true);
    this.parts.view.value = "split";
    this.compared = null;
    this.viewChanged();
  }

  compareFrame() {
    const { reference, file } = this;
    reference.find(this.frame, (canvas, frame) => {
      if (this.file !== file || this.reference !== reference) return;
      this.renderer.setReference(canvas);
      const { width, height } = canvas;
      const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
      const { rgb } = this.renderer.pixels(...this.place(frame));
      this.compared = { frame, psnr: psnr(rgb, pixels) };
      this.ask();
    });
  }
}
