// Gaussians and weights in the order in which the shaders read them.

/** (mu, l1, l2) and (l3, red, green, blue) of each Gaussian, as the shaders take them. */
export function packed({ mu, cholesky, rgb }) {
  const count = mu.length / 2;
  const [a, b] = [new Float32Array(4 * count), new Float32Array(4 * count)];
  for (let i = 0; i < count; i++) {
    a.set([mu[2 * i], mu[2 * i + 1], cholesky[3 * i], cholesky[3 * i + 1]], 4 * i);
    b.set([cholesky[3 * i + 2], rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]], 4 * i);
  }
  return [a, b];
}

/** What `packed` made, of `count` Gaussians. */
export function unpacked([a, b], count) {
  const [mu, cholesky, rgb] = [2, 3, 3].map((n) => new Float32Array(n * count));
  for (let i = 0; i < count; i++) {
    mu.set(a.subarray(4 * i, 4 * i + 2), 2 * i);
    cholesky.set([a[4 * i + 2], a[4 * i + 3], b[4 * i]], 3 * i);
    rgb.set(b.subarray(4 * i + 1, 4 * i + 4), 3 * i);
  }
  return { mu, cholesky, rgb };
}

/** The numbers of the MLP, in the order in which `networkCode` reads them. */
export function blocksOf(field, layout, tensors) {
  const blocks = {};
  if (!layout.quads) return blocks;
  const { width } = field;
  const weights = [tensors["first.weight"], tensors["second.weight"]];
  layout.layers.forEach(({ from, blocks: cuts }, k) => {
    for (const { name, start, count } of cuts) {
      const values = new Float32Array(count * from * 16);
      let at = 0;
      for (let j = start; j < start + count; j++) {
        for (let i = 0; i < 4 * from; i++, at += 4) {
          const row = k === 0 ? layout.rows[i] : i;
          if (row >= 0) values.set(weights[k].subarray(row * width + 4 * j, row * width + 4 * j + 4), at);
        }
      }
      blocks[name] = values;
    }
  });
  const rest = new Float32Array(layout.rest * 4); // biases of the first layer are written a frame
  rest.set(tensors["second.bias"], width);
  let column = 0;
  for (const [name, outputs] of field.heads) {
    for (let c = 0; c < outputs; c++, column++) {
      rest[2 * width + column] = tensors[`${name}.bias`][c];
      for (let i = 0; i < width; i++) rest[2 * width + 8 + 8 * i + column] = tensors[`${name}.weight`][i * outputs + c];
    }
  }
  blocks.rest = rest;
  return blocks;
}
