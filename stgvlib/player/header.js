// The header of a .stgv file: every setting in range, and no more work than a file of its size may ask for.

import { FileError } from "./entropy.js";

const STEPS = { position: 1 / 16, cholesky: 0.02, color: 1 / 256, motion: 1 / 512, field_bits: 10, lowest: null };
const WHOLE = {
  levels: [8, 1, 16],
  log2_table_size: [10, 1, 22],
  base_resolution: [16, 1, 4096],
  time_frequencies: [6, 0, 16],
  position_frequencies: [10, 0, 16],
  width: [128, 1, 1024],
  head_layers: [1, 1, 2],
  polynomial: [0, 0, 8],
};
const CHOICES = {
  encoding: ["hash", "positional", "planes", "none"],
  spatial: [true, false],
  temporal: [true, false],
  spatial_features: [2, 4],
  temporal_features: [4, 2],
  time_code: ["pi", "plain"],
  position_code: ["pi", "plain"],
  position_space: ["pixels", "tanh"],
  deform_shape: [false, true],
  fade: [false, true],
  zero_heads: [true, false],
};
const NUMBERS = { growth: [1.5, 1, 4], slope: [0, 0, 1] };
const MOST_SIDE = 32767;
const MOST_CELLS = 2 ** 20;
const ROW_COST = 8; // pairs that a row of an ellipse counts as
const CUT = Math.log(255); // sigma at which a weight is 1/255
const MIN_SCALE = 0.3; // px

const isWhole = (value, least, most) => Number.isInteger(value) && value >= least && value <= most;
const isNumber = (value, most) => typeof value === "number" && value > 0 && value <= most && value < Infinity;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const product = (numbers) => numbers.reduce((a, b) => a * b, 1);
const show = (value) => String(JSON.stringify(value)).slice(0, 40);

/**
 * @param {Uint8Array} text JSON in UTF-8
 * @param {number} gops sections of GoPs in the file
 * @returns {object} size, fps, frames, gaussians, sample_aspect, durations, steps, field: all set and in range
 * Raises FileError where a value makes no sense.
 */
export function headerOf(text, gops) {
  try {
    const header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(text));
    need(isObject(header), "the header must be an object", header);
    const { size, fps, frames, gaussians, sample_aspect = [1, 1] } = header;
    const pair = (value) => Array.isArray(value) && value.length === 2;
    need(pair(size) && size.every((side) => isWhole(side, 1, MOST_SIDE)), "size must be two sides", size);
    need(Array.isArray(frames) && frames.length > 0, "frames must be a list", frames);
    for (const n of frames) need(isWhole(n, 1, 65535), "frames of a GoP must be from 1 to 65535", n);
    need(frames.length <= Math.max(gops, 1), "the file has fewer GoPs than its header", frames.length);
    need(isWhole(gaussians, 0, 2 ** 31 - 1), "gaussians must be a whole number", gaussians);
    need(isNumber(fps, 1000), "fps must be above 0 and at most 1000", fps);
    const aspect = pair(sample_aspect) && sample_aspect.every((part) => isWhole(part, 1, 65535));
    need(aspect, "sample_aspect must be two whole numbers", sample_aspect);
    const durations = checkHints(header, frames.reduce((a, b) => a + b, 0));
    const steps = stepsOf(header.steps);
    const field = fieldOf(header.field, size);
    return { size, fps, frames, gaussians, sample_aspect, durations, steps, field };
  } catch (error) {
    const reason = error.message.replace(/[^\x20-\x7e]/g, "").slice(0, 150);
    throw new FileError(`The file is damaged: its header makes no sense (${reason}). Encode it again.`);
  }
}

/** Checks what a file says of how its frames are shown. @returns {?{tick, runs}} its durations */
function checkHints({ durations, color = [2, 2, 2, 0], poster = 0 }, total) {
  const numbers = Array.isArray(color) && color.length === 4 && color.every((v) => isWhole(v, 0, 255)) && color[3] < 2;
  need(numbers, "color must be four whole numbers", color);
  need(isWhole(poster, 0, total - 1), "poster must be a frame of the video", poster);
  if (durations === undefined) return null;
  const { tick, runs } = isObject(durations) ? durations : {};
  const known = isObject(durations) && Object.keys(durations).length === 2 && [tick, runs].every(Array.isArray);
  need(known && tick.length === 2, "durations must have tick and runs", durations);
  need([...tick, ...runs].every((v) => isWhole(v, 1, 2 ** 31 - 1)), "durations must be whole numbers", durations);
  const sum = (value) => runs.reduce((all, n, i) => all + (i % 2 ? 0 : value(n, runs[i + 1])), 0);
  need(runs.length % 2 === 0 && sum((n) => n) === total, "durations must be of all frames", runs);
  need(sum((n, ticks) => n * ticks) <= 2 ** 53, "durations are too long", runs);
  return durations;
}

/** Times in s at which each frame and the end of a video come. @returns {Float64Array} [frames + 1] */
export function timesOf({ durations, fps, frames }) {
  const times = new Float64Array(frames.reduce((a, b) => a + b, 1));
  if (!durations) return times.map((_, frame) => frame / fps);
  const { tick, runs } = durations;
  for (let at = 0, frame = 0, r = 0; r < runs.length; r += 2) {
    for (let n = 0; n < runs[r]; n++) times[++frame] = ((at += runs[r + 1]) * tick[0]) / tick[1];
  }
  return times;
}

function need(condition, message, value) {
  if (!condition) throw new FileError(`${message}, got ${show(value)}`);
}

function stepsOf(values) {
  need(isObject(values), "steps must be an object", values);
  for (const name of Object.keys(values)) need(name in STEPS, "unknown step", name);
  const steps = { ...STEPS, ...values };
  for (const name of ["position", "cholesky", "color", "motion"]) {
    const inside = isNumber(steps[name], 1e3) && steps[name] >= 1e-6;
    need(inside, `the step of ${name} must be from 1e-6 to 1000`, steps[name]);
  }
  need(isWhole(steps.field_bits, 2, 16), "field_bits must be from 2 to 16", steps.field_bits);
  const { lowest } = steps;
  if (lowest === null) return steps;
  const whole = Array.isArray(lowest) && lowest.length === 2 && lowest.every((value) => isWhole(value, -32, 32));
  need(whole, "lowest must be two whole numbers from -32 to 32", lowest);
  const bases = [steps.position / (steps.color * 2 ** lowest[1]), steps.cholesky / (steps.color * 2 ** lowest[0])];
  for (const base of bases) need(base >= 1e-6 && base <= 1e6, "steps are out of range without finer bits", base);
  return steps;
}

function fieldOf(values, size) {
  need(isObject(values), "field must be an object", values);
  const field = {};
  const given = (name, usual) => (Object.hasOwn(values, name) ? values[name] : usual);
  for (const [name, [usual, least, most]] of Object.entries(WHOLE)) {
    field[name] = given(name, usual);
    need(isWhole(field[name], least, most), `${name} must be from ${least} to ${most}`, field[name]);
  }
  for (const [name, choices] of Object.entries(CHOICES)) {
    field[name] = given(name, choices[0]);
    need(choices.includes(field[name]), `${name} must be one of ${choices.join(", ")}`, field[name]);
  }
  for (const [name, [usual, least, most]] of Object.entries(NUMBERS)) {
    field[name] = given(name, usual);
    const inside = typeof field[name] === "number" && field[name] >= least && field[name] <= most;
    need(inside, `${name} must be from ${least} to ${most}`, field[name]);
  }
  need(field.slope < 1, "slope must be below 1", field.slope);
  field.time_cells = given("time_cells", null);
  field.position_scale = given("position_scale", null);
  field.lattice = given("lattice", []);
  const known = new Set(Object.keys(field));
  for (const name of Object.keys(values)) need(known.has(name), "unknown setting of the field", name);
  const finest = field.base_resolution * field.growth ** (field.levels - 1);
  need(finest <= MOST_CELLS, "the finest level has too many cells", finest);
  const cells = field.time_cells;
  const cellsFit = Array.isArray(cells) && cells.length === field.levels && cells.every((c) => isNumber(c, MOST_CELLS));
  need(cells === null || cellsFit, "time_cells must be one number a level", cells);
  const scale = field.position_scale;
  need(scale === null || isNumber(scale, 2 ** 16), "position_scale must be above 0", scale);
  const points = field.lattice;
  const pointsFit = Array.isArray(points) && points.every((n) => isWhole(n, 1, 65536));
  need(pointsFit && [0, 3].includes(points.length), "lattice must be three numbers or none", points);
  need(!(field.fade && field.polynomial), "fade excludes polynomial", true);
  const tanh = field.position_space === "tanh";
  need(!tanh || (!field.polynomial && !points.length), "tanh excludes polynomial and lattice", true);
  const half = [size[1] / 2, size[0] / 2];
  field.unit = tanh ? [1, 1] : scale === null ? half : [scale, scale]; // px a unit of the position head
  field.shapeUnit = Math.min(...field.unit) / 10;
  field.ownNumbers = 2 * field.polynomial + (field.fade ? 1 : 0);
  field.grids = gridsOf(field);
  field.tensors = tensorsOf(field);
  return field;
}

/** The two hash tables: {name, dims, features, entries, levels: [{scales, points, offset, size, hashed}]}. */
function gridsOf(field) {
  if (field.encoding !== "hash") return [];
  const grids = [];
  for (const [name, dims] of [["spatial", 2], ["temporal", 3]]) {
    if (!field[name]) continue;
    const levels = [];
    let entries = 0;
    const growth = Math.fround(Math.log2(Math.fround(field.growth)));
    for (let l = 0; l < field.levels; l++) {
      const power = Math.fround(2 ** Math.fround(l * growth));
      const scale = Math.fround(Math.fround(power * field.base_resolution) - 1);
      const scales = Array(dims).fill(scale);
      if (dims === 3 && field.time_cells) scales[2] = Math.fround(field.time_cells[l]);
      const points = scales.map((value) => Math.ceil(value) + 1);
      const all = product(points);
      const size = Math.min(Math.ceil(all / 8) * 8, 2 ** field.log2_table_size);
      levels.push({ scales, points, offset: entries, size, hashed: all > size });
      entries += size;
    }
    grids.push({ name, dims, features: field[`${name}_features`], entries, levels });
  }
  return grids;
}

/** The field's tensors in the order of the file: {name, shape, length}. Sets `inputs` of the first layer. */
function tensorsOf(field) {
  const tensors = [];
  const add = (name, ...shape) => tensors.push({ name, shape, length: product(shape) });
  if (field.lattice.length) add("lattice", ...field.lattice, 2);
  field.codes = 1 + 2 * field.time_frequencies;
  field.inputs = 0; // but for gamma(t)
  field.heads = [];
  if (field.encoding === "none") return tensors;
  for (const grid of field.grids) {
    add(grid.name, grid.entries, grid.features);
    field.inputs += field.levels * grid.features;
  }
  if (field.encoding === "positional") field.inputs = 2 * (1 + 2 * field.position_frequencies);
  if (field.encoding === "planes") {
    ["xy", "xt", "yt"].forEach((name, k) => add(name, 16, k ? 16 : 40, 40));
    field.inputs = 48;
  }
  const { width } = field;
  const layer = (name, inputs, outputs) => {
    add(`${name}.weight`, inputs, outputs);
    add(`${name}.bias`, 1, outputs);
  };
  layer("first", field.inputs + field.codes, width);
  layer("second", width, width);
  field.heads = [["position", 2], ["color", 3], ["shape", 3]].slice(0, field.deform_shape ? 3 : 2);
  for (const [name, outputs] of field.heads) {
    if (field.head_layers === 2) layer(`${name}0`, width, width);
    layer(name, width, outputs);
  }
  return tensors;
}

/** Raises FileError where a file of `bytes` asks for more than docs/FORMAT.md, "Limits", allows. */
export function checkLimits(header, bytes) {
  const { field, frames, gaussians, size } = header;
  const all = frames.reduce((a, b) => a + b, 0);
  const own = field.tensors.reduce((sum, tensor) => sum + tensor.length, 0);
  const layers = field.tensors.filter((tensor) => tensor.name.endsWith("weight"));
  const computed = layers.reduce((sum, { shape }) => sum + shape[0] + shape[1], 0);
  const asked = [
    ["pixels of a frame", product(size), 16384 * bytes],
    ["frames", all, 16 * bytes],
    ["parameters", frames.length * (gaussians * (8 + field.ownNumbers) + own), Math.max(2 ** 22, 64 * bytes)],
    ["numbers that the field computes for a frame", gaussians * computed, Math.max(2 ** 25, 1024 * bytes)],
  ];
  for (const [name, amount, most] of asked) {
    if (!(amount <= most)) {
      throw new FileError(`The file is damaged: it asks for ${amount} ${name}, more than its size allows (${most}).`);
    }
  }
}

/** Raises FileError where Gaussians cover more pixels than a file of `bytes` may ask for. */
export function checkPairs({ mu, cholesky }, size, bytes) {
  const reach = Math.sqrt(2 * CUT);
  const length = (from, to, side) => Math.max(0, Math.min(to, side) - Math.max(from, 0));
  let pairs = 0;
  for (let i = 0; i < mu.length / 2; i++) {
    const [x, y] = [mu[2 * i], mu[2 * i + 1]];
    const l1 = Math.max(cholesky[3 * i], MIN_SCALE);
    const l3 = Math.max(cholesky[3 * i + 2], MIN_SCALE);
    const [rx, ry] = [reach * l1, reach * Math.hypot(cholesky[3 * i + 1], l3)];
    const columns = length(x - rx, x + rx, size[1]);
    const rows = length(y - ry, y + ry, size[0]);
    pairs += (Math.min(2 * CUT * Math.PI * l1 * l3, columns * rows) || 0) + ROW_COST * (rows || 0);
  }
  if (pairs > Math.max(2 ** 28, 2 ** 18 * bytes)) {
    throw new FileError("has Gaussians that cover more pixels than a file of its size can hold");
  }
}
