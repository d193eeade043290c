// The deformation field in JavaScript, for configurations that the shader does not know (docs/CONVENTIONS.md).

const FADE_SCALE = 8;
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

/** The Gaussians of a decoded GoP at time t. @returns {{mu, cholesky, rgb}} Float32Array, px */
export function deform(gop, header, t) {
  const { field, size } = header;
  const [height, width] = size;
  const mu = Float32Array.from(gop.mu);
  const cholesky = Float32Array.from(gop.cholesky);
  const rgb = Float32Array.from(gop.rgb);
  const network = field.encoding !== "none" ? new Network(field, gop.tensors, t) : null;
  const numbers = field.ownNumbers;
  for (let i = 0; i < gop.count; i++) {
    const where = [mu[2 * i] / width, mu[2 * i + 1] / height];
    const out = network ? network.run(where, t) : new Float32Array(8);
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
  constructor(field, tensors, t) {
    this.field = field;
    this.tensors = tensors;
    this.bias = timeBias(field, tensors, t);
    this.inputs = new Float32Array(field.inputs);
    this.layers = [0, 1, 2].map(() => new Float32Array(field.width));
    this.out = new Float32Array(8);
  }

  run(where, t) {
    const { field, tensors, inputs, out } = this;
    this.encode(where, t);
    const [hidden, features, more] = this.layers;
    this.layer(inputs, tensors["first.weight"], this.bias, hidden);
    this.layer(hidden, tensors["second.weight"], tensors["second.bias"], features);
    let at = 0;
    for (const [name, outputs] of field.heads) {
      let from = features;
      if (field.head_layers === 2) {
        this.layer(features, tensors[`${name}0.weight`], tensors[`${name}0.bias`], more);
        from = more;
      }
      product(from, tensors[`${name}.weight`], tensors[`${name}.bias`], out.subarray(at, at + outputs));
      at += outputs;
    }
    return out;
  }

  layer(from, weight, bias, to) {
    product(from, weight, bias, to);
    for (let j = 0; j < to.length; j++) if (to[j] < 0) to[j] *= this.field.slope;
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
    for (const grid of field.grids) {
      const place = [...where, t].map((v) => Math.min(Math.max(v, 0), 1));
      for (const level of grid.levels) {
        lookUp(grid, level, this.tensors[grid.name], place, inputs, at);
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

function product(from, weight, bias, to) {
  to.set(bias);
  const outputs = to.length;
  for (let i = 0; i < from.length; i++) {
    const value = from[i];
    if (value === 0) continue;
    const row = i * outputs;
    for (let j = 0; j < outputs; j++) to[j] += value * weight[row + j];
  }
}

function lookUp(grid, level, table, place, out, at) {
  out.fill(0, at, at + grid.features);
  const cells = [];
  const far = [];
  for (let d = 0; d < grid.dims; d++) {
    const position = Math.fround(place[d] * level.scales[d] + 0.5);
    cells.push(Math.floor(position));
    far.push(position - cells[d]);
  }
  for (let corner = 0; corner < 1 << grid.dims; corner++) {
    let weight = 1;
    let row = 0;
    let stride = 1;
    for (let d = 0; d < grid.dims; d++) {
      const bit = (corner >> d) & 1;
      weight *= bit ? far[d] : 1 - far[d];
      const cell = cells[d] + bit;
      row = level.hashed ? (row ^ Math.imul(cell, PRIMES[d])) >>> 0 : row + cell * stride;
      stride *= level.points[d];
    }
    const entry = level.offset + (row % level.size);
    for (let f = 0; f < grid.features; f++) out[at + f] += weight * table[entry * grid.features + f];
  }
}
