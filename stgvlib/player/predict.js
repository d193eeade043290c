// GoPs of a file, decoded when they are asked for. A predicted GoP follows from the GoP before (docs/FORMAT.md).

import { FileError } from "./entropy.js";
import { deform } from "./field.js";
import { LOG_SCALES, readGop } from "./format.js";

const MOST_KEPT = 128e6; // bytes of decoded GoPs
const SLICE = 512; // Gaussians that are deformed at a time
const MIN_SCALE = Math.fround(0.3); // px
const MOST_PLACE = 2 ** 20; // px
const MOST_COLOR = 2 ** 16;
const MOST_SHAPE = Math.exp(2 * LOG_SCALES[1]);

/** The GoPs of an open file, those used last kept. */
export class Gops {
  /**
   * @param {object} file from `openFile`
   * @param {boolean} keep whether GoPs have their `integers`
   */
  constructor(file, keep = false) {
    this.file = file;
    this.keep = keep;
    this.kept = new Map(); // GoP -> decoded, or the error of a damaged one
    this.bytes = 0;
  }

  /** Whether a GoP is predicted from the one before it. */
  isPredicted(gop) {
    return this.file.sections.get(gop)?.predicted ?? false;
  }

  /** Decodes what `gop` waits for, for about `most` ms. @returns {boolean} whether `gop` is decoded, or damaged */
  advance(gop, most = 30) {
    const end = performance.now() + most;
    while (!this.kept.has(gop) && performance.now() <= end) this.step(gop);
    return this.kept.has(gop);
  }

  step(gop) {
    let next = gop;
    const waits = (g) => g > 0 && !this.kept.has(g) && this.isPredicted(g) && !this.file.faults.has(g);
    while (waits(next) && !this.kept.has(next - 1)) next -= 1;
    const before = waits(next) ? this.kept.get(next - 1) : null;
    if (before?.mu && !ended(before, this.file.header)) return;
    this.add(next, this.decode(next));
  }

  /** @returns {object} what `readGop` gives of a key GoP. Raises FileError where it, or one before it, is damaged. */
  at(gop) {
    this.advance(gop, Infinity);
    const found = this.kept.get(gop);
    this.kept.delete(gop);
    this.kept.set(gop, found);
    if (found instanceof Error) throw found;
    return found;
  }

  decode(gop) {
    try {
      const found = readGop(this.file, gop, this.keep);
      if (!found.predicted) return found;
      const before = this.kept.get(gop - 1);
      if (!before) throw new FileError("is predicted, but no group is before it");
      if (before instanceof Error) throw new FileError(`is predicted from group ${gop}, which is damaged`);
      if (before.count !== found.count) {
        throw new FileError(`is predicted from ${found.count} Gaussians, but group ${gop} has ${before.count}`);
      }
      const { end } = before;
      before.end = null;
      return follow(before, end, found);
    } catch (error) {
      return error;
    }
  }

  add(gop, found) {
    this.kept.set(gop, found);
    this.bytes += bytesOf(found);
    while (this.bytes > MOST_KEPT && this.kept.size > 1) {
      const [oldest, old] = this.kept.entries().next().value;
      this.kept.delete(oldest);
      this.bytes -= bytesOf(old);
    }
  }
}

function bytesOf(found) {
  if (found instanceof Error) return 0;
  const arrays = [found.mu, found.cholesky, found.rgb, found.own, ...Object.values(found.tensors)];
  return arrays.reduce((sum, array) => sum + array.byteLength, 0);
}

/** Deforms the next SLICE Gaussians to the last frame, into `end`. @returns {boolean} whether none was left */
function ended(decoded, header) {
  const { count } = decoded;
  const rows = Object.entries({ mu: 2, cholesky: 3, rgb: 3 });
  decoded.end ??= { at: 0, ...Object.fromEntries(rows.map(([name, n]) => [name, new Float32Array(n * count)])) };
  const { end } = decoded;
  if (end.at === count) return true;
  const part = { ...decoded, count: Math.min(SLICE, count - end.at) };
  for (const [name, n] of rows) part[name] = decoded[name].subarray(n * end.at, n * (end.at + part.count));
  const moved = deform(part, header, 1);
  for (const [name, n] of rows) end[name].set(moved[name], n * end.at);
  end.at += part.count;
  return false;
}

/** A GoP from the one before, the Gaussians `end` of that one's last frame, and differences. Raises FileError. */
function follow(before, end, changes) {
  const { count, flags, position, shape, color } = changes;
  const mu = Float64Array.from(end.mu);
  const cholesky = Float64Array.from(end.cholesky);
  const rgb = Float64Array.from(end.rgb);
  const stepOf = ([base, bits], i) => base * 0.5 ** bits[i];
  const scale = (value, by) => Math.exp(Math.min(Math.max(Math.log(value) + by, LOG_SCALES[0]), LOG_SCALES[1]));
  for (let i = 0, k = 0; i < count; i++) {
    for (const d of [0, 2]) cholesky[3 * i + d] = Math.max(cholesky[3 * i + d], MIN_SCALE);
    if (!flags[i]) continue;
    for (let d = 0; d < 2; d++) mu[2 * i + d] += position[d][k] * stepOf(before.steps.position, i);
    const step = stepOf(before.steps.color, i);
    rgb[3 * i] += (color[1][k] + color[0][k]) * step;
    rgb[3 * i + 1] += color[0][k] * step;
    rgb[3 * i + 2] += (color[2][k] + color[0][k]) * step;
    const [a, b, c] = shape.map((row) => row[k] * stepOf(before.steps.shape, i));
    if (a || b || c) {
      const ratio = cholesky[3 * i + 1] / cholesky[3 * i + 2] + b;
      const l3 = scale(cholesky[3 * i + 2], c);
      cholesky.set([scale(cholesky[3 * i], a), ratio * l3, l3], 3 * i);
    }
    k += 1;
  }
  const tensors = { ...changes.tensors };
  for (const name of changes.differences) {
    tensors[name] = tensors[name].map((value, i) => value + before.tensors[name][i]);
  }
  const bounds = [[mu, MOST_PLACE], [cholesky, MOST_SHAPE], [rgb, MOST_COLOR]];
  for (const values of Object.values(tensors)) bounds.push([values, Infinity]);
  if (!bounds.every(([values, most]) => values.every((value) => Math.abs(value) < most))) {
    throw new FileError("has differences that leave the range of numbers");
  }
  const [own, steps] = [before.own, before.steps];
  const gaussians = { mu: new Float32Array(mu), cholesky: new Float32Array(cholesky), rgb: new Float32Array(rgb) };
  return { ...changes, ...gaussians, own, steps, tensors };
}
