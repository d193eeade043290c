// The deformation field in JavaScript (docs/CONVENTIONS.md, "The field"): for configurations that the shader does not
// know, and where a CPU would run the shader.

const FADE_SCALE = 8;
const NOTHING = new Float64Array(8);
const PRIMES = [1, 2654435761, 805459861];

/** gamma(t): t, sines, cosines. @returns {Float32Array} the last inputs of the first layer */
export function timeCode(field, t) {
  const base = field.time_code === "pi" ? Math.PI : 1;
  const angles = Array.from({ length: field.time_frequencies }, (_, k) => Math.fround(t * Math.fround(base * 2 ** k)));
  return Float32Array.from([t, ...angles.map(Math.sin), ...angles.map(Math.cos)]);
}

/** Where t lies between the lattice's points in time. */
export function latticeTime(field, t) {
  const points = field.lattice[0] ?? 1;
  return Math.min(Math.max(t * points - 1, 0), points - 1);
}

/** The bias of the first layer with what gamma(t) adds, which is the same for all Gaussians. */
export function timeBias(field, tensors, t) {
  const bias = Float32Array.from(tensors["first.bias"]);
  const weight = tensors["first.weight"];
  timeCode(field, t).forEach((value, k) => {
    const row = (field.inputs + k) * field.width;
    for (let j = 0; j < field.width; j++) bias[j] += value * weight[row + j];
  });
  return bias;
}

/**
 * The Gaussians of a decoded GoP at time t; the hash `silent`, spatial or temporal, gives zeros.
 * @returns {{mu, cholesky, rgb}} Float32Array, px
 */
export function deform(gop, header, t, silent = null) {
  const { field, size } = header;
  const [height, width] = size;
  const mu = Float32Array.from(gop.mu);
  const cholesky = Float32Array.from(gop.cholesky);
  const rgb = Float32Array.from(gop.rgb);
  const network = field.encoding !== "none" ? new Network(field, gop.tensors, t, silent) : null;
  const numbers = field.ownNumbers;
  for (let i = 0; i < gop.count; i++) {
    const where = [mu[2 * i] / width, mu[2 * i + 1] / height];
    const out = network ? network.run(where, t) : NOTHING;
    const moved = [out[0] * field.unit[0], out[1] * field.unit[1]];
    if (field.lattice.length) displacement(field, gop.tensors.lattice, where, t).forEach((d, k) => (moved[k] += d));
    for (let k = 0; k < field.polynomial; k++) {
      const at = i * numbers + 2 * k;
      for (let d = 0; d < 2; d++) moved[d] += gop.own[at + d] * t ** (k + 1) * field.unit[d];
    }
    if (field.fade) for (let c = 0; c < 3; c++) rgb[3 * i + c] *= 1 + FADE_SCALE * gop.own[i] * (2 * t - 1);
    if (field.position_space === "tanh") insideTanh(mu, i, moved, [width, height]);
    else for (let d = 0; d < 2; d++) mu[2 * i + d] += moved[d];
    for (let c = 0; c < 3; c++) rgb[3 * i + c] += out[2 + c];
    if (field.deform_shape) for (let c = 0; c < 3; c++) cholesky[3 * i + c] += out[5 + c] * field.shapeUnit;
  }
  return { mu, cholesky, rgb };
}

function insideTanh(mu, i, moved, extent) {
  const inside = [0, 1].every((d) => mu[2 * i + d] >= 0 && mu[2 * i + d] <= extent[d]);
  if (!inside) return;
  for (let d = 0; d < 2; d++) {
    const place = Math.min(Math.max((mu[2 * i + d] / extent[d]) * 2 - 1, -0.999999), 0.999999);
    mu[2 * i + d] = ((Math.tanh(Math.atanh(place) + moved[d]) + 1) / 2) * extent[d];
  }
}

/** Places between points of an axis: [[point, weight], [point, weight]]. */
function between(place, count) {
  const at = Math.min(Math.max(place, 0), count - 1);
  const low = Math.floor(at);
  return [[low, 1 - (at - low)], [Math.min(low + 1, count - 1), at - low]];
}

function displacement(field, lattice, where, t) {
  const [T, Y, X] = field.lattice;
  const out = [0, 0];
  for (const [k, a] of between(latticeTime(field, t), T)) {
    for (const [y, b] of between(where[1] * (Y - 1), Y)) {
      for (const [x, c] of between(where[0] * (X - 1), X)) {
        const at = 2 * ((k * Y + y) * X + x);
        for (let d = 0; d < 2; d++) out[d] += a * b * c * lattice[at + d];
      }
    }
  }
  return out;
}

class Network {
  constructor(field, tensors, t, silent) {
    this.field = field;
    this.silent = silent;
    this.tensors = tensors;
    const layer = (name, inputs, bias = tensors[`${name}.bias`]) => new Layer(tensors[`${name}.weight`], bias, inputs);
    const { width, slope } = field;
    this.slope = slope;
    this.inputs = new Float64Array(field.inputs);
    this.first = layer("first", field.inputs, timeBias(field, tensors, t));
    this.second = layer("second", width);
    this.heads = field.heads.map(([name]) => {
      return field.head_layers === 2 ? [layer(`${name}0`, width), layer(name, width)] : [layer(name, width)];
    });
    this.out = new Float64Array(8);
  }

  run(where, t) {
    this.encode(where, t);
    const features = this.second.run(this.first.run(this.inputs, this.slope), this.slope);
    let at = 0;
    for (const layers of this.heads) {
      const from = layers.length === 2 ? layers[0].run(features, this.slope) : features;
      const last = layers.at(-1);
      const found = last.run(from, 1);
      for (let k = 0; k < last.outputs; k++) this.out[at++] = found[k];
    }
    return this.out;
  }

  encode(where, t) {
    const { field, inputs } = this;
    if (field.encoding === "positional") {
      const plain = field.position_code === "plain";
      const point = plain ? where.map((v) => 2 * v - 1) : where;
      const n = field.position_frequencies;
      point.forEach((v, d) => {
        inputs[d] = v;
        for (let k = 0; k < n; k++) {
          const angle = v * (plain ? 1 : Math.PI) * 2 ** k;
          inputs[2 + 2 * n * d + k] = Math.sin(angle);
          inputs[2 + 2 * n * d + n + k] = Math.cos(angle);
        }
      });
    }
    if (field.encoding === "planes") this.planes(where, t);
    let at = 0;
    const place = [...where, t].map((v) => Math.min(Math.max(v, 0), 1));
    for (const grid of field.grids) {
      for (const level of grid.levels) {
        if (grid.name !== this.silent) lookUp(grid, level, this.tensors[grid.name], place, inputs, at);
        at += grid.features;
      }
    }
  }

  planes([x, y], t) {
    const tables = [["xy", x, 40, y, 40], ["xt", x, 40, t, 16], ["yt", y, 40, t, 16]];
    tables.forEach(([name, column, columns, row, rows], k) => {
      const table = this.tensors[name];
      for (let f = 0; f < 16; f++) {
        let sum = 0;
        for (const [r, a] of between(row * (rows - 1), rows)) {
          for (const [c, b] of between(column * (columns - 1), columns)) {
            sum += a * b * table[(f * rows + r) * columns + c];
          }
        }
        this.inputs[16 * k + f] = sum;
      }
    });
  }
}

/** One layer for one input: four outputs at a time, weights in the order in which they are read. */
class Layer {
  constructor(weight, bias, inputs) {
    this.inputs = inputs;
    this.outputs = bias.length;
    const padded = Math.ceil(this.outputs / 4) * 4;
    this.bias = new Float64Array(padded);
    this.bias.set(bias);
    this.out = new Float64Array(padded);
    this.weight = new Float64Array(inputs * padded);
    for (let j = 0; j < this.outputs; j++) {
      const first = (j >> 2) * inputs * 4 + (j & 3);
      for (let i = 0; i < inputs; i++) this.weight[first + 4 * i] = weight[i * this.outputs + j];
    }
  }

  run(from, slope) {
    const { weight, bias, out, inputs } = this;
    for (let j = 0, at = 0; j < out.length; j += 4) {
      let [a, b, c, d] = [bias[j], bias[j + 1], bias[j + 2], bias[j + 3]];
      for (let i = 0; i < inputs; i++, at += 4) {
        const value = from[i];
        a += value * weight[at];
        b += value * weight[at + 1];
        c += value * weight[at + 2];
        d += value * weight[at + 3];
      }
      out[j] = a < 0 ? a * slope : a;
      out[j + 1] = b < 0 ? b * slope : b;
      out[j + 2] = c < 0 ? c * slope : c;
      out[j + 3] = d < 0 ? d * slope : d;
    }
    return out;
  }
}

const cells = new Float64Array(3);
const far = new Float64Array(3);

function lookUp(grid, level, table, place, out, at) {
  const { dims, features } = grid;
  for (let f = 0; f < features; f++) out[at + f] = 0;
  for (let d = 0; d < dims; d++) {
    const position = Math.fround(place[d] * level.scales[d] + 0.5);
    cells[d] = Math.floor(position);
    far[d] = position - cells[d];
  }
  for (let corner = 0; corner < 1 << dims; corner++) {
    let weight = 1;
    let row = 0;
    let stride = 1;
    for (let d = 0; d < dims; d++) {
      const bit = (corner >> d) & 1;
      weight *= bit ? far[d] : 1 - far[d];
      const cell = cells[d] + bit;
      row = level.hashed ? (row ^ Math.imul(cell, PRIMES[d])) >>> 0 : row + cell * stride;
      stride *= level.points[d];
    }
    const entry = (level.offset + (row % level.size)) * features;
    for (let f = 0; f < features; f++) out[at + f] += weight * table[entry + f];
  }
}
