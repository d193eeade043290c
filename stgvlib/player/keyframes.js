// Which frame of a GoP is nearest to its canonical Gaussians. The file does not name its key frame.

import { deform } from "./field.js";

const SAMPLED = 64; // Gaussians that are moved to find out

/** The frame of a GoP in which a sample of its Gaussians has moved least. */
export function keyFrameOf(decoded, header, gop) {
  const every = Math.max(1, Math.floor(decoded.count / SAMPLED));
  const count = Math.min(SAMPLED, decoded.count);
  const sample = (values, n) => {
    return Float32Array.from({ length: n * count }, (_, k) => values[Math.floor(k / n) * every * n + (k % n)]);
  };
  const some = { ...decoded, count };
  const sizes = { mu: 2, cholesky: 3, rgb: 3, own: header.field.ownNumbers };
  for (const [name, n] of Object.entries(sizes)) some[name] = sample(decoded[name], n);
  let [best, least] = [0, Infinity];
  for (let i = 0; i < header.frames[gop]; i++) {
    const moved = deform(some, header, (i + 1) / header.frames[gop]);
    const sum = moved.mu.reduce((total, value, k) => total + Math.abs(value - some.mu[k]), 0);
    if (sum < least) [best, least] = [i, sum];
  }
  return best;
}
