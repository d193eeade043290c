// The player: opens a file, keeps time, and draws the frame that is asked for at the zoom that is asked for.

import { FileError } from "./entropy.js";
import { checkPairs } from "./header.js";
import { decodeGop, openFile } from "./format.js";
import { deform } from "./field.js";
import { Renderer } from "./render.js";
import { Reference, psnr } from "./compare.js";
import { drawOverlay, numbersOf, strongestAt } from "./overlay.js";
import { LEGENDS, buildControls, drawMarks, element, offerComparisons, setIcon } from "./controls.js";
import { listenToFiles, listenToKeys, listenToPointers } from "./input.js";

const MOST_ZOOM = 400;
const SAMPLED = 64; // Gaussians that tell which frame of a GoP is nearest to the canonical ones
const PAINT = { motion: 1, size: 2 };
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
    this.reset();
    this.connect(keys);
  }

  reset() {
    this.pause();
    Object.assign(this, { frame: 0, total: 0, starts: [], keyFrames: new Map(), damaged: new Map(), picked: null });
    Object.assign(this, { zoom: 1, centre: [0.5, 0.5], ratio: 1, shown: [], compared: "", slow: 0 });
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
    for (const input of [parts.ellipses.input, parts.arrows.input, parts.split]) {
      input.addEventListener("input", () => this.ask());
    }
    listenToKeys(keys, this);
    listenToPointers(parts.stage, this);
    listenToFiles(this.root, parts, this);
    new ResizeObserver(() => this.resized()).observe(parts.stage);
    parts.picture.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.pause();
      this.tell("The GPU was lost. The picture comes back when the browser has one again.");
    });
    parts.picture.addEventListener("webglcontextrestored", () => this.file && this.open(this.file.data, this.file.name));
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
      this.renderer = new Renderer(this.parts.picture, file.header, (gop) => this.decode(file, gop));
      this.file = file;
    } catch (error) {
      this.fail(error);
      return;
    }
    const { frames, size, sample_aspect: aspect } = this.file.header;
    this.aspect = aspect[0] / aspect[1];
    this.total = frames.reduce((a, b) => a + b, 0);
    frames.reduce((start, n) => (this.starts.push(start), start + n), 0);
    this.parts.time.max = this.total - 1;
    this.tell("");
    this.describe();
    this.resized();
    this.draw();
    this.later(() => this.findKeyFrames(0, this.file));
    globalThis.performance?.mark?.("stgv-first-frame");
    return size;
  }

  closeFile() {
    this.reset();
    this.renderer?.close();
    this.reference?.close();
    Object.assign(this, { file: null, renderer: null, reference: null });
    const { parts } = this;
    for (const value of ["split", "error"]) parts.view.querySelector(`[value=${value}]`)?.remove();
    parts.view.value = "picture";
    this.viewChanged();
    parts.facts.textContent = "Drop a .stgv file here, or choose one.";
    parts.frame.textContent = "–";
    parts.numbers.hidden = true;
  }

  fail(error) {
    const known = error instanceof FileError;
    this.tell(known ? error.message : `The file cannot be shown: ${String(error.message ?? error).slice(0, 150)}.`);
    this.file = null;
    this.renderer = null;
    const gl = this.parts.picture.getContext("webgl2");
    if (gl) {
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
    }
    this.parts.overlay.width = 1;
  }

  /** A GoP's integers as Gaussians and field; null, and a line on the page, where it is damaged. */
  decode(file, gop) {
    try {
      const decoded = decodeGop(file, gop);
      checkPairs(decoded, file.header.size, file.bytes);
      return decoded;
    } catch (error) {
      this.damaged.set(gop, error instanceof FileError ? error.message : "cannot be decoded");
      const first = [...this.damaged].slice(0, 3).map(([g, why]) => `Group ${g + 1} ${why}.`);
      const more = this.damaged.size > 3 ? ` So are ${this.damaged.size - 3} more.` : "";
      this.tell(`The file is damaged: ${first.join(" ")}${more} Frames of damaged groups are black.`);
      return null;
    }
  }

  tell(text) {
    this.parts.message.textContent = text;
    this.parts.message.hidden = !text;
  }

  describe() {
    const { header, bytes } = this.file;
    const number = (value) => value.toLocaleString("en-US");
    const pixels = this.total * header.size[0] * header.size[1];
    const facts = [
      `${header.size[1]}×${header.size[0]}`,
      `${number(this.total)} frames`,
      `${number(Math.round(header.fps * 1000) / 1000)} frames/s`,
      `${number(header.frames.length)} group${header.frames.length > 1 ? "s" : ""} of pictures`,
      `up to ${number(header.gaussians)} Gaussians a group`,
      `${number(bytes)} bytes (${((8 * bytes) / pixels).toFixed(4)} bits a pixel)`,
    ];
    if (!this.renderer.deformProgram && this.renderer.moves) facts.push("field in JavaScript: slow");
    this.parts.facts.textContent = facts.join(" · ");
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
    this.clock = { time: performance.now(), frame: this.frame };
    this.shown = [];
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
    if (this.playing) {
      const rate = this.file.header.fps * Number(this.parts.speed.value);
      const frame = this.clock.frame + Math.floor(((now - this.clock.time) * rate) / 1000 + 1e-3);
      if (frame >= this.total) this.clock = { time: now, frame: 0 };
      const next = frame >= this.total ? 0 : Math.max(frame, 0);
      const changed = next !== this.frame || !this.shown.length;
      this.frame = next;
      if (changed) {
        this.draw();
        this.measure(now, rate);
      }
      this.ask();
    } else this.draw();
  }

  /** Frames in the last second; where they come late, fewer pixels are rendered until the player pauses. */
  measure(now, rate) {
    this.shown = this.shown.filter((time) => time > now - 1000);
    const last = this.shown.at(-1);
    this.shown.push(now);
    if (this.shown.length > 1) {
      const span = now - this.shown[0];
      this.parts.rate.textContent = `${(((this.shown.length - 1) * 1000) / span).toFixed(1)} frames/s`;
    }
    const late = last !== undefined && now - last > 1.6 * Math.max(1000 / rate, 17);
    this.slow = late ? this.slow + 1 : Math.max(0, this.slow - 1);
    if (this.slow > 3 && this.parts.resolution.value === "auto" && this.ratio > 0.25) {
      this.ratio /= 2;
      this.slow = 0;
    }
  }

  later(task) {
    if (globalThis.requestIdleCallback) requestIdleCallback(task);
    else setTimeout(task, 50);
  }

  /** Marks, group after group while nothing else is to do, the frame nearest to the canonical Gaussians. */
  findKeyFrames(gop, file) {
    if (this.file !== file || gop >= this.starts.length) return;
    if (!this.playing) {
      const { header } = file;
      let decoded = null;
      try {
        decoded = this.renderer.gops.get(gop)?.decoded ?? decodeGop(file, gop);
      } catch {
        decoded = null; // it is named when it is shown
      }
      if (decoded?.count && this.renderer.moves) this.keyFrames.set(gop, this.starts[gop] + keyFrameOf(decoded, header, gop));
      this.marks();
      gop += 1;
    }
    setTimeout(() => this.later(() => this.findKeyFrames(gop, file)), this.playing ? 500 : 0);
  }

  marks() {
    drawMarks(this.parts.marks, this.starts, this.total, this.keyFrames.values());
  }

  // View

  resized() {
    const { picture, overlay, stage, marks } = this.parts;
    const ratio = globalThis.devicePixelRatio || 1;
    const [width, height] = [stage.clientWidth, stage.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)));
    for (const canvas of [picture, overlay]) if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
    }
    if (!this.file) return;
    if (marks.clientWidth) this.marks();
    this.draw();
  }

  /** From px of the fitted frame to px of the canvas. */
  viewport() {
    const { picture } = this.parts;
    const [height, width] = this.file.header.size;
    const fit = Math.min(picture.width / (width * this.aspect), picture.height / height);
    const scale = [fit * this.zoom * this.aspect, fit * this.zoom];
    const offset = [width, height].map((side, d) => {
      const room = (d ? picture.height : picture.width) / (side * scale[d]); // in frames
      this.centre[d] = room >= 1 ? 0.5 : Math.min(Math.max(this.centre[d], room / 2), 1 - room / 2);
      return (d ? picture.height : picture.width) / 2 - this.centre[d] * side * scale[d];
    });
    return { scale, offset };
  }

  /** Zooms about a point in CSS px of the stage, or about its middle. */
  zoomBy(factor, point = null) {
    if (!this.file) return;
    const ratio = globalThis.devicePixelRatio || 1;
    const { picture } = this.parts;
    const at = point ? point.map((v) => v * ratio) : [picture.width / 2, picture.height / 2];
    const size = [this.file.header.size[1], this.file.header.size[0]];
    const before = this.viewport();
    const fixed = at.map((v, d) => (v - before.offset[d]) / before.scale[d]);
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), MOST_ZOOM);
    const { scale } = this.viewport();
    const middle = [picture.width / 2, picture.height / 2];
    this.centre = fixed.map((v, d) => (v + (middle[d] - at[d]) / scale[d]) / size[d]);
    this.ask();
  }

  /** Moves the picture by CSS px. */
  panBy(dx, dy) {
    if (!this.file) return;
    const ratio = globalThis.devicePixelRatio || 1;
    const { scale } = this.viewport();
    const [height, width] = this.file.header.size;
    this.centre[0] -= (dx * ratio) / (scale[0] * width);
    this.centre[1] -= (dy * ratio) / (scale[1] * height);
    this.ask();
  }

  fit() {
    Object.assign(this, { zoom: 1, centre: [0.5, 0.5] });
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

  drawFrame() {
    const { parts, renderer, file } = this;
    const { picture } = parts;
    const [gop, index] = this.place(this.frame);
    const how = { canonical: parts.view.value === "canonical", paint: PAINT[parts.view.value] ?? 0 };
    const view = this.viewport();
    const ratio = parts.resolution.value === "auto" ? this.ratio : Number(parts.resolution.value);
    const size = [picture.width, picture.height].map((side) => Math.ceil(side * ratio));
    const scaled = { scale: view.scale.map((v) => v * ratio), offset: view.offset.map((v) => v * ratio) };
    renderer.splat(gop, index, size, scaled, how);
    const mode = this.reference ? MODE[parts.view.value] ?? 0 : 0;
    renderer.show(scaled, ratio, { ...how, mode, split: Number(parts.split.value) });
    this.poster?.remove();
    this.poster = null;
    const { ellipses, arrows } = { ellipses: parts.ellipses.input.checked, arrows: parts.arrows.input.checked };
    const needed = ellipses || arrows || this.picked?.gop === gop;
    const gaussians = needed ? renderer.gaussians(gop, index, how.canonical) : null;
    const picked = this.picked?.gop === gop ? this.picked.number : null;
    drawOverlay(parts.overlay.getContext("2d"), gaussians, view, { ellipses, arrows, picked });
    parts.numbers.hidden = picked === null;
    if (picked !== null) {
      const rows = numbersOf(gaussians, picked).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
      parts.numbers.replaceChildren(...rows);
    }
    parts.time.value = this.frame;
    parts.time.setAttribute("aria-valuetext", `frame ${this.frame} of group ${gop + 1}`);
    parts.zoom.textContent = `${Math.round(this.zoom * 100)} %`;
    const compared = this.compared && this.compared.frame === this.frame ? ` · ${this.compared.psnr.toFixed(2)} dB` : "";
    parts.frame.textContent = `${this.frame} / ${this.total - 1} · group ${gop + 1}/${file.header.frames.length}${compared}`;
    if (this.reference && this.compared?.frame !== this.frame) this.compareFrame(gop, index);
  }

  /** Picks the Gaussian that adds most at a point in CSS px of the stage; the one that is picked is let go. */
  pick(point) {
    if (!this.file) return;
    const ratio = globalThis.devicePixelRatio || 1;
    const view = this.viewport();
    const [x, y] = point.map((v, d) => (v * ratio - view.offset[d]) / view.scale[d]);
    const [gop, index] = this.place(this.frame);
    const gaussians = this.renderer.gaussians(gop, index, this.parts.view.value === "canonical");
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
      this.reference = await new Reference(blob, this.file.header).open();
    } catch (error) {
      this.tell(error.message);
      return;
    }
    offerComparisons(this.parts);
    this.parts.view.value = "split";
    this.compared = "";
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

/** The frame of a GoP in which a sample of its Gaussians has moved least. */
function keyFrameOf(decoded, header, gop) {
  const every = Math.max(1, Math.floor(decoded.count / SAMPLED));
  const numbers = header.field.ownNumbers;
  const of = (values, n) => Float32Array.from({ length: n * count }, (_, k) => values[Math.floor(k / n) * every * n + (k % n)]);
  const count = Math.min(SAMPLED, decoded.count);
  const some = { ...decoded, count, mu: of(decoded.mu, 2), cholesky: of(decoded.cholesky, 3), rgb: of(decoded.rgb, 3) };
  some.own = of(decoded.own, numbers);
  let [best, least] = [0, Infinity];
  for (let i = 0; i < header.frames[gop]; i++) {
    const moved = deform(some, header, (i + 1) / header.frames[gop]);
    const sum = moved.mu.reduce((total, value, k) => total + Math.abs(value - some.mu[k]), 0);
    if (sum < least) [best, least] = [i, sum];
  }
  return best;
}

/** Starts the player of a page, with the file that it holds (base64) or names, or with none. */
export async function startPage() {
  const root = document.getElementById("stgv");
  const about = JSON.parse(document.getElementById("stgv-about").textContent);
  const player = new Player(root, document);
  globalThis.stgvPlayer = player;
  const held = document.getElementById("stgv-file");
  if (held) {
    const text = atob(held.textContent.trim());
    const data = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) data[i] = text.charCodeAt(i);
    held.remove();
    player.open(data, about.name);
  } else if (about.source) {
    try {
      const answer = await fetch(about.source);
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      player.open(new Uint8Array(await answer.arrayBuffer()), about.name);
    } catch (error) {
      player.tell(`The file cannot be fetched: ${error.message}. Drop one here.`);
    }
    if (about.video) {
      const answer = await fetch(about.video);
      await player.compareWith(await answer.blob());
    }
  }
  document.documentElement.dataset.stgv = "ready";
}
