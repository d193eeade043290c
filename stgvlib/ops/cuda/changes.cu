// Differences of predicted GoPs: rounding, and the gradient of their rate. The reference is change_optimizer.py.
//
// change_pulls  adds the rate's gradient to that of the distortion
// change_round  what the file will hold of the unrounded parameters
//
// A block takes one row of `rows`: (tensor of the field, or -1 for Gaussians; GoP; first, one past the last). Tensors
// are parts of flat buffers that begin at `offsets`: mu, Cholesky, rgb, then the field's. `sizes` is that of
// rate.cu, `base` what they are predicted from, `own` [3, G, N] each Gaussian's steps. Bytes a number in both: 28.

extern "C" __global__ void __launch_bounds__(BLOCK) change_pulls(
    const float* __restrict__ flat, float* __restrict__ grad, const float* __restrict__ base,
    const float* __restrict__ alive, const float* __restrict__ own, const float* __restrict__ field_steps,
    const float* __restrict__ prices, const int4* __restrict__ rows, const int* __restrict__ offsets,
    const int2* __restrict__ sizes, int gops, int n, float flag) {
  int4 row = rows[blockIdx.x];
  int k = row.x, g = row.y;
  float price = prices[g];
  if (k >= 0) {
    int2 size = sizes[k];
    ll first = offsets[3 + k] + (ll)g * size.x;
    float step = field_steps[k];
    auto pull = [&](int i) {
      float d = (symbol(flat + first, i, size.y) - symbol(base + first, i, size.y)) / step;
      return price / (1.f + fabsf(d)) * sign(d) / step;
    };
    for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x)
      grad[first + i] += pull(i) - (i + size.y < size.x ? pull(i + size.y) : 0.f);
    return;
  }
  for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
    ll q = (ll)g * n + i, mu = offsets[0] + 2 * q, cholesky = offsets[1] + 3 * q, rgb = offsets[2] + 3 * q;
    float step[3], now[6], before[6], d[8], total = 0.f, worth = price * alive[q];
#pragma unroll
    for (int j = 0; j < 3; j++) step[j] = own[(ll)j * gops * n + q];
    sent(flat + cholesky, flat + rgb, now);
    sent(base + cholesky, base + rgb, before);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      d[j] = j < 2 ? (flat[mu + j] - base[mu + j]) / step[0] : (now[j - 2] - before[j - 2]) / step[j < 5 ? 1 : 2];
      total += fabsf(d[j]);
    }
    float flagged = flag * worth / (1.f + total);
#pragma unroll
    for (int j = 0; j < 8; j++)
      d[j] = (worth / (1.f + fabsf(d[j])) + flagged) * sign(d[j]) / step[j < 2 ? 0 : j < 5 ? 1 : 2];
    float l1 = fmaxf(flat[cholesky], MIN_SCALE), l3 = fmaxf(flat[cholesky + 2], MIN_SCALE);
    grad[mu] += d[0];
    grad[mu + 1] += d[1];
    grad[cholesky] += d[2] / l1;
    grad[cholesky + 1] += d[3] / l3;
    grad[cholesky + 2] += (d[4] - d[3] * flat[cholesky + 1] / l3) / l3;
    grad[rgb] += d[6];
    grad[rgb + 1] += d[5] - d[6] - d[7];
    grad[rgb + 2] += d[7];
  }
}

// least, most: of the logarithms of l1 and l3 that a reader takes.
extern "C" __global__ void __launch_bounds__(BLOCK) change_round(
    const float* __restrict__ flat, float* __restrict__ shown, const float* __restrict__ base,
    const float* __restrict__ alive, const float* __restrict__ own, const float* __restrict__ field_steps,
    const int4* __restrict__ rows, const int* __restrict__ offsets, const int2* __restrict__ sizes, int gops, int n,
    float waiting, float least, float most) {
  int4 row = rows[blockIdx.x];
  int k = row.x, g = row.y;
  if (k >= 0) {
    ll first = offsets[3 + k] + (ll)g * sizes[k].x;
    float step = field_steps[k];
    for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x)
      shown[first + i] = base[first + i] + rintf((flat[first + i] - base[first + i]) / step) * step;
    return;
  }
  for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
    ll q = (ll)g * n + i, mu = offsets[0] + 2 * q, cholesky = offsets[1] + 3 * q, rgb = offsets[2] + 3 * q;
    float step[3], now[6], before[6];
#pragma unroll
    for (int j = 0; j < 3; j++) step[j] = own[(ll)j * gops * n + q];
    sent(flat + cholesky, flat + rgb, now);
    sent(base + cholesky, base + rgb, before);
    bool same = true;
#pragma unroll
    for (int j = 0; j < 3; j++) {
      float d = rintf((now[j] - before[j]) / step[1]);
      same &= d == 0.f;
      now[j] = before[j] + d * step[1];
    }
    float l1 = expf(fminf(fmaxf(now[0], least), most)), l3 = expf(fminf(fmaxf(now[2], least), most));
    shown[cholesky] = same ? base[cholesky] : l1;
    shown[cholesky + 1] = same ? base[cholesky + 1] : now[1] * l3;
    shown[cholesky + 2] = same ? base[cholesky + 2] : l3;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      float at = base[mu + j] + rintf((flat[mu + j] - base[mu + j]) / step[0]) * step[0];
      shown[mu + j] = alive[q] > 0.f ? at : waiting;
    }
#pragma unroll
    for (int j = 0; j < 3; j++)
      shown[rgb + j] = base[rgb + j] + rintf((flat[rgb + j] - base[rgb + j]) / step[2]) * step[2];
  }
}
