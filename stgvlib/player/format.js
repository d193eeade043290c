// Reads .stgv files, versions 3 and 4 (docs/FORMAT.md): container, header, limits, and the section of a GoP.

import { FileError, Reader } from "./entropy.js";
import { checkLimits, headerOf } from "./header.js";

const MAGIC = [0x89, 0x53, 0x54, 0x47, 0x56, 0x0d, 0x0a, 0x0a];
const VERSIONS = [3, 4];
const [KEY, PREDICTED] = [2, 3]; // kinds of section
const MOST_HEADER = 65536; // bytes
export const LOG_SCALES = [Math.log(0.3) - 1, 14]; // of l1 and l3, px
const MOST_STEP = 1e6;

let crcTable = null;

/** @returns {number} CRC-32 of zlib */
export function crc32(data) {
  if (!crcTable) {
    crcTable = new Uint32Array(256);
    for (let n = 0; n < 256; n++) {
      let c = n;
      for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
      crcTable[n] = c;
    }
  }
  let crc = 0xffffffff;
  for (let i = 0; i < data.length; i++) crc = crcTable[(crc ^ data[i]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/**
 * Reads container and header; `Gops` decodes GoPs, one at a time.
 * @param {Uint8Array} data the whole file
 * @returns {{header, sections, faults, inTime, bytes}} maps of GoPs' sections, and of what is wrong with GoPs
 * Raises FileError for a file that is foreign, damaged, of another version, or asks for more than its size allows.
 */
export function openFile(data) {
  if (data.length < 16 || MAGIC.some((byte, i) => data[i] !== byte)) {
    throw new FileError("This is no .stgv file. Choose one that `stgv encode` wrote.");
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const version = view.getUint16(8, true);
  if (!VERSIONS.includes(version)) {
    const advice = version > VERSIONS[1] ? "get a newer player" : "encode it again";
    const known = VERSIONS.join(" and ");
    throw new FileError(`The file has format version ${version}. This player reads versions ${known}: ${advice}.`);
  }
  const inTime = version > VERSIONS[0]; // predicted GoPs, and a lattice as differences in time
  const count = view.getUint16(10, true);
  const end = 16 + 11 * count;
  if (end > data.length || crc32(data.subarray(16, end)) !== view.getUint32(12, true)) {
    throw damaged("its section table is cut off or fails its checksum");
  }
  const sections = new Map();
  let at = end;
  let text = null;
  for (let k = 0; k < count; k++) {
    const entry = 16 + 11 * k;
    const kind = view.getUint8(entry);
    const gop = view.getUint16(entry + 1, true);
    const size = view.getUint32(entry + 3, true);
    const crc = view.getUint32(entry + 7, true);
    if (k === 0) {
      if (kind !== 1 || size > MOST_HEADER) throw damaged("it does not begin with a header");
      text = data.subarray(at, at + size);
      if (text.length < size || crc32(text) !== crc) throw damaged("its header is cut off or fails its checksum");
    } else if ((kind === KEY || (kind === PREDICTED && inTime)) && !sections.has(gop)) {
      sections.set(gop, { predicted: kind === PREDICTED, data: data.subarray(at, at + size), size, crc });
    }
    at += size;
  }
  if (text === null) throw damaged("it does not begin with a header");
  const header = headerOf(text, count - 1);
  checkLimits(header, data.length);
  const faults = new Map();
  header.frames.forEach((_, gop) => {
    const fault = faultOf(sections.get(gop));
    if (fault) faults.set(gop, fault);
  });
  return { header, sections, faults, inTime, bytes: data.length };
}

function faultOf(section) {
  if (!section) return "is not in the file";
  if (section.data.length < section.size) return "is cut off";
  return crc32(section.data) === section.crc ? null : "fails its checksum";
}

function damaged(reason) {
  return new FileError(`The file is damaged: ${reason}. Encode it again.`);
}

/**
 * A GoP's section: a key GoP's Gaussians and field, or the differences of a predicted one.
 * @param {boolean} keep whether `integers` are returned, in the order of the file
 * @returns {object} of a key GoP {frames, count, mu, cholesky, rgb, own, tensors, steps}: Float32Array [N * 2],
 * [N * 3], [N * 3], [N * numbers of its own], tensors by name, and the steps of each Gaussian; of a predicted one
 * {frames, count, flags, position, shape, color, tensors, differences}: rows of integers, and names of tensors to add.
 * Raises FileError where the section is damaged.
 */
export function readGop(file, gop, keep = false) {
  const { header, inTime } = file;
  const fault = file.faults.get(gop);
  if (fault) throw new FileError(fault);
  const { data, predicted } = file.sections.get(gop);
  if (predicted && header.field.ownNumbers) {
    throw new FileError("is predicted, which Gaussians with numbers of their own cannot be");
  }
  const reader = new Reader(data);
  const frames = reader.uint16();
  const count = reader.uint32();
  if (frames !== header.frames[gop] || count > header.gaussians) {
    throw new FileError(`has ${frames} frames and ${count} Gaussians, not what the header says`);
  }
  const found = predicted ? readChanges(reader, count) : readKey(reader, count, header);
  const tensors = {};
  const differences = [];
  for (const { name, length, shape } of header.field.tensors) {
    const flag = predicted ? data[reader.take(1)] : 0;
    if (flag > 1) throw new FileError("has flags out of range");
    if (flag) differences.push(name);
    const step = reader.float32();
    if (!(step >= 0 && step < MOST_STEP)) throw new FileError("has a step that is out of range");
    const integers = reader.integers(length);
    if (keep) found.integers.push(...(predicted ? [[flag]] : []), integers);
    const sums = inTime && name === "lattice" ? runningSums(integers, length / shape[0]) : integers;
    tensors[name] = Float32Array.from(sums, (value) => value * step);
  }
  if (!reader.atEnd) throw new FileError("has bytes too many");
  if (keep) found.integers.unshift([frames, count]);
  else found.integers = null;
  return { ...found, frames, count, predicted, tensors, differences };
}

/** Of differences in time, `back` integers one from the next. */
function runningSums(integers, back) {
  const sums = Float64Array.from(integers);
  for (let i = back; i < sums.length; i++) sums[i] += sums[i - back];
  return sums;
}

const rowsOf = (reader, n, count) => Array.from({ length: n }, () => reader.integers(count));

/** The differences of a predicted GoP, of those Gaussians that change. */
function readChanges(reader, count) {
  const flags = reader.integers(count);
  if (flags.some((flag) => flag !== 0 && flag !== 1)) throw new FileError("has flags out of range");
  const changing = flags.reduce((a, b) => a + b, 0);
  const [position, shape, color] = [2, 3, 3].map((n) => rowsOf(reader, n, changing));
  return { flags, position, shape, color, integers: [flags, ...position, ...shape, ...color] };
}

function readKey(reader, count, header) {
  const origin = [reader.int32(), reader.int32()];
  const gaps = reader.integers(count);
  if (gaps.some((gap) => gap < 0) || gaps.reduce((a, b) => a + b, 0) >= 2 ** 32) {
    throw new FileError("has positions out of range");
  }
  const shape = rowsOf(reader, 3, count);
  const steps = stepsOf(header.steps);
  const sizes = sizesOf(shape, steps);
  const color = [0, 1, 2].map(() => readColor(reader, sizes));
  const [positionBits, shapeBits] = finerBits(color, sizes, header.steps.lowest);
  const finerPosition = reader.bits(concat([positionBits, positionBits]));
  const finerShape = reader.bits(concat([shapeBits, shapeBits, shapeBits]));
  const own = rowsOf(reader, header.field.ownNumbers, count);
  const gaussians = { gaps, shape, color, sizes, positionBits, shapeBits, finerPosition, finerShape, own, origin };
  const integers = [origin, gaps, ...shape, ...color, finerPosition, finerShape, ...own];
  return { integers, ...valuesOf(gaussians, steps, header) };
}

function concat(arrays) {
  const out = new arrays[0].constructor(arrays.reduce((sum, array) => sum + array.length, 0));
  arrays.reduce((at, array) => (out.set(array, at), at + array.length), 0);
  return out;
}

function stepsOf(steps) {
  const [u, v] = steps.lowest ?? [0, 0];
  const adaptive = steps.lowest !== null;
  return {
    adaptive,
    position: adaptive ? steps.position / (steps.color * 2 ** v) : steps.position,
    shape: adaptive ? steps.cholesky / (steps.color * 2 ** u) : steps.cholesky,
  };
}

function sizesOf(shape, steps) {
  const sizes = new Uint8Array(shape[0].length);
  if (!steps.adaptive) return sizes;
  const bounds = [0, 1, 2, 3, 4].map((k) => ((k + 0.5) * 2 * Math.log(2)) / steps.shape);
  for (let i = 0; i < sizes.length; i++) {
    const sum = shape[0][i] + shape[2][i];
    sizes[i] = bounds.filter((bound) => sum >= bound).length;
  }
  return sizes;
}

/** One channel: a run for the Gaussians of each size, the least first. */
function readColor(reader, sizes) {
  const out = new Float64Array(sizes.length);
  const counts = [0, 0, 0, 0, 0, 0];
  for (const size of sizes) counts[size] += 1;
  const runs = counts.map((count) => (count ? reader.integers(count) : null));
  const next = [0, 0, 0, 0, 0, 0];
  for (let i = 0; i < sizes.length; i++) out[i] = runs[sizes[i]][next[sizes[i]]++];
  return out;
}

/** How many finer bits each Gaussian's position and shape have. */
function finerBits(color, sizes, lowest) {
  const count = sizes.length;
  const position = new Uint8Array(count);
  const shape = new Uint8Array(count);
  if (lowest === null) return [position, shape];
  const [u, v] = lowest;
  for (let i = 0; i < count; i++) {
    const green = color[0][i];
    const energy = (color[1][i] + green) ** 2 + green ** 2 + (color[2][i] + green) ** 2;
    for (let k = 0; k < 4; k++) shape[i] += energy >= 4 ** (u + k) ? 1 : 0;
    for (let k = 0; k < 3; k++) position[i] += energy >= 4 ** (v + k + sizes[i]) ? 1 : 0;
  }
  return [position, shape];
}

function deinterleave(code) {
  code &= 0x55555555;
  code = (code | (code >>> 1)) & 0x33333333;
  code = (code | (code >>> 2)) & 0x0f0f0f0f;
  code = (code | (code >>> 4)) & 0x00ff00ff;
  return (code | (code >>> 8)) & 0x0000ffff;
}

function valuesOf(integers, steps, header) {
  const { gaps, shape, color, sizes, positionBits, shapeBits, finerPosition, finerShape, origin } = integers;
  const count = gaps.length;
  const mu = new Float32Array(2 * count);
  const cholesky = new Float32Array(3 * count);
  const rgb = new Float32Array(3 * count);
  const scale = (integer) => Math.exp(Math.min(Math.max(integer * steps.shape, LOG_SCALES[0]), LOG_SCALES[1]));
  let code = 0;
  for (let i = 0; i < count; i++) {
    code += gaps[i];
    let part = 0.5 ** positionBits[i];
    const place = [deinterleave(code >>> 0), deinterleave(code >>> 1)];
    for (let d = 0; d < 2; d++) {
      const finer = (finerPosition[d * count + i] + 0.5) * part - 0.5;
      mu[2 * i + d] = (place[d] + origin[d] + finer) * steps.position;
    }
    part = 0.5 ** shapeBits[i];
    const [a, b, c] = [0, 1, 2].map((d) => shape[d][i] + (finerShape[d * count + i] + 0.5) * part - 0.5);
    const l3 = scale(c);
    cholesky[3 * i] = scale(a);
    cholesky[3 * i + 1] = b * steps.shape * l3;
    cholesky[3 * i + 2] = l3;
    const step = header.steps.color * 0.5 ** sizes[i];
    const green = color[0][i];
    rgb[3 * i] = (color[1][i] + green) * step;
    rgb[3 * i + 1] = green * step;
    rgb[3 * i + 2] = (color[2][i] + green) * step;
  }
  const numbers = integers.own.length;
  const own = new Float32Array(numbers * count);
  integers.own.forEach((row, k) => row.forEach((value, i) => (own[i * numbers + k] = value * header.steps.motion)));
  const finest = { position: [steps.position, positionBits], shape: [steps.shape, shapeBits] };
  return { mu, cholesky, rgb, own, steps: { ...finest, color: [header.steps.color, sizes] } };
}
