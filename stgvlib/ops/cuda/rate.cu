// Fine-tuning for a file, rate_optimizer.py says what: the rate's gradients, the steps that are learned, and rounding.
//
// rate_means, rate_distances, rate_parts  sums over a GoP of what is sent: their means, the mean distances from these,
//                                         and how many bits change with the logarithms of the steps
// rate_pulls                              adds the rate's gradient to that of the distortion
// rate_steps                              one block: moves the logarithms of the steps
// rate_round                              what the file will hold of the unrounded parameters
//
// A block takes one row of `rows`: (tensor of the field, or -1 for Gaussians; GoP; first, one past the last). Tensors
// are parts of flat buffers that begin at `offsets`: mu, Cholesky, rgb, then the field's. `sizes` has numbers
// of a GoP, and of one point in time, which are fewer in a lattice alone. Bytes a number in all: 36.

#define LN2 0.69314718f
#define TWO_E 5.43656366f

// Sums of a GoP's Gaussians: three of the shape, three of the colour, each of means, distances, parts; and how many.
#define MEANS 0
#define DISTANCES 6
#define PARTS 12
#define ALIVE 18

struct Layout {  // where things are in `sums`, in this order
  float *gops, *tensors, *noise, *slopes;  // [G, OF_GOP], [tensors, G, 2], [3 + tensors], [2] of shape and colour
};

__device__ __forceinline__ Layout layout(float* sums, int gops, int tensors) {
  float *of_tensors = sums + OF_GOP * gops, *noise = of_tensors + 2 * tensors * gops;
  return {sums, of_tensors, noise, noise + 3 + tensors};
}

// Adds each of K values, summed over the block, to where `to(j)` points.
template <int K, class To>
__device__ __forceinline__ void add_up(const float (&values)[K], To to) {
  __shared__ float parts[BLOCK / 32][K];
#pragma unroll
  for (int j = 0; j < K; j++) {
    float v = values[j];
    for (int o = 16; o; o >>= 1) v += __shfl_down_sync(~0u, v, o);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5][j] = v;
  }
  __syncthreads();
  if (threadIdx.x < K) {
    float v = 0.f;
    for (int w = 0; w < BLOCK / 32; w++) v += parts[w][threadIdx.x];
    atomicAdd(to(threadIdx.x), v);
  }
}

// Least and largest of three positive values over the block, into limits [3, 2].
__device__ __forceinline__ void widen(const float (&least)[3], const float (&most)[3], float* limits) {
  __shared__ float parts[BLOCK / 32][6];
#pragma unroll
  for (int j = 0; j < 3; j++) {
    float a = least[j], b = most[j];
    for (int o = 16; o; o >>= 1) {
      a = fminf(a, __shfl_down_sync(~0u, a, o));
      b = fmaxf(b, __shfl_down_sync(~0u, b, o));
    }
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5][2 * j] = a, parts[threadIdx.x >> 5][2 * j + 1] = b;
  }
  __syncthreads();
  if (threadIdx.x < 6) {
    float v = parts[0][threadIdx.x];
    for (int w = 1; w < BLOCK / 32; w++)
      v = threadIdx.x & 1 ? fmaxf(v, parts[w][threadIdx.x]) : fminf(v, parts[w][threadIdx.x]);
    if (threadIdx.x & 1)
      atomicMax((int*)limits + threadIdx.x, __float_as_int(v));
    else
      atomicMin((int*)limits + threadIdx.x, __float_as_int(v));
  }
}

// By the logarithm of a step: bits of a symbol at a mean distance of b steps.
__device__ __forceinline__ float part_of(float b) { return TWO_E * b / (1.f + TWO_E * b) / LN2; }

extern "C" __global__ void __launch_bounds__(BLOCK) rate_means(
    const float* __restrict__ flat, const float* __restrict__ shown, const float* __restrict__ grad,
    const float* __restrict__ alive, const int4* __restrict__ rows, const int* __restrict__ offsets,
    const int2* __restrict__ sizes, float* __restrict__ sums, int gops, int n, int tensors) {
  int4 row = rows[blockIdx.x];
  int k = row.x, g = row.y;
  Layout at = layout(sums, gops, tensors);
  if (k >= 0) {
    ll first = offsets[3 + k] + (ll)g * sizes[k].x;
    float s[2] = {0.f, 0.f};
    for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
      s[0] += symbol(flat + first, i, sizes[k].y);
      s[1] += grad[first + i] * (shown[first + i] - flat[first + i]);
    }
    add_up(s, [&](int j) { return j ? at.noise + 3 + k : at.tensors + 2 * (k * gops + g); });
    return;
  }
  float s[10] = {};
  for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
    ll q = (ll)g * n + i;
    float v[6], a = alive[q];
    sent(flat + offsets[1] + 3 * q, flat + offsets[2] + 3 * q, v);
#pragma unroll
    for (int j = 0; j < 6; j++) s[j] += v[j] * a;
    s[6] += a;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      ll p = j < 2 ? offsets[0] + 2 * q + j : j < 5 ? offsets[1] + 3 * q + j - 2 : offsets[2] + 3 * q + j - 5;
      s[j < 2 ? 7 : j < 5 ? 8 : 9] += grad[p] * (shown[p] - flat[p]);
    }
  }
  add_up(s, [&](int j) { return j < 7 ? at.gops + OF_GOP * g + (j < 6 ? MEANS + j : ALIVE) : at.noise + j - 7; });
}

extern "C" __global__ void __launch_bounds__(BLOCK) rate_distances(
    const float* __restrict__ flat, const float* __restrict__ alive, const int4* __restrict__ rows,
    const int* __restrict__ offsets, const int2* __restrict__ sizes, float* __restrict__ sums, int gops, int n,
    int tensors) {
  int4 row = rows[blockIdx.x];
  int k = row.x, g = row.y;
  Layout at = layout(sums, gops, tensors);
  if (k >= 0) {
    const float* values = flat + offsets[3 + k] + (ll)g * sizes[k].x;
    float* of_tensor = at.tensors + 2 * (k * gops + g);
    float mean = of_tensor[0] / (float)sizes[k].x, s[1] = {0.f};
    for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x)
      s[0] += fabsf(symbol(values, i, sizes[k].y) - mean);
    add_up(s, [&](int) { return of_tensor + 1; });
    return;
  }
  float *of_gop = at.gops + OF_GOP * g, count = fmaxf(of_gop[ALIVE], 1.f), mean[6], s[6] = {};
#pragma unroll
  for (int j = 0; j < 6; j++) mean[j] = of_gop[MEANS + j] / count;
  for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
    ll q = (ll)g * n + i;
    float v[6], a = alive[q];
    sent(flat + offsets[1] + 3 * q, flat + offsets[2] + 3 * q, v);
#pragma unroll
    for (int j = 0; j < 6; j++) s[j] += fabsf((v[j] - mean[j]) * a);
  }
  add_up(s, [&](int j) { return of_gop + DISTANCES + j; });
}

// own [3, G, N]: steps of each Gaussian's position, shape, colour; null where all have those of log_steps. Rows of
// Gaussians only.
extern "C" __global__ void __launch_bounds__(BLOCK) rate_parts(
    const float* __restrict__ alive, const float* __restrict__ NULLABLE own, const float* __restrict__ log_steps,
    const float* __restrict__ slope, const float* __restrict__ weights, const int4* __restrict__ rows,
    float* __restrict__ sums, int gops, int n, int tensors) {
  int4 row = rows[blockIdx.x];
  int g = row.y;
  Layout at = layout(sums, gops, tensors);
  float *of_gop = at.gops + OF_GOP * g, price = *slope * weights[g], distance[6], s[8] = {};
  float shape = expf(log_steps[1]), color = expf(log_steps[2]);
#pragma unroll
  for (int j = 0; j < 6; j++) distance[j] = of_gop[DISTANCES + j] / fmaxf(of_gop[ALIVE], 1.f);
  for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
    ll q = (ll)g * n + i;
    float a = alive[q];
    if (own) shape = own[(ll)gops * n + q], color = own[2ll * gops * n + q];
#pragma unroll
    for (int j = 0; j < 6; j++) {
      float part = part_of(distance[j] / (j < 3 ? shape : color)) * a;
      s[j] += part;
      s[j < 3 ? 6 : 7] -= price * part;
    }
  }
  add_up(s, [&](int j) { return j < 6 ? of_gop + PARTS + j : at.slopes + j - 6; });
}

// limits [G, 3, 2]: least and largest of `own`.
extern "C" __global__ void __launch_bounds__(BLOCK) rate_pulls(
    const float* __restrict__ flat, float* __restrict__ grad, const float* __restrict__ alive,
    const float* __restrict__ NULLABLE own, const float* __restrict__ limits, const float* __restrict__ log_steps,
    const float* __restrict__ slope, const float* __restrict__ weights, const int4* __restrict__ rows,
    const int* __restrict__ offsets, const int2* __restrict__ sizes, float* __restrict__ sums, int gops, int n,
    int tensors) {
  int4 row = rows[blockIdx.x];
  int k = row.x, g = row.y;
  Layout at = layout(sums, gops, tensors);
  float price = *slope * weights[g];
  if (k >= 0) {
    int2 size = sizes[k];
    ll first = offsets[3 + k] + (ll)g * size.x;
    float *of_tensor = at.tensors + 2 * (k * gops + g), count = (float)size.x, step = expf(log_steps[3 + k]);
    float mean = of_tensor[0] / count, distance = of_tensor[1] / count;
    float pull = price * part_of(distance / step) / fmaxf(distance, 1e-6f * step);
    for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
      float by = sign(symbol(flat + first, i, size.y) - mean);
      if (i + size.y < size.x) by -= sign(symbol(flat + first, i + size.y, size.y) - mean);
      grad[first + i] += pull * by;
    }
    return;
  }
  float *of_gop = at.gops + OF_GOP * g, count = fmaxf(of_gop[ALIVE], 1.f), mean[6], distance[6], worth[6];
#pragma unroll
  for (int j = 0; j < 6; j++) {
    mean[j] = of_gop[MEANS + j] / count;
    distance[j] = of_gop[DISTANCES + j] / count;
    worth[j] = price * of_gop[PARTS + j] / count;
  }
  float step[3] = {0.f, expf(log_steps[1]), expf(log_steps[2])};
  for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
    ll q = (ll)g * n + i;
    const float *cholesky = flat + offsets[1] + 3 * q, *rgb = flat + offsets[2] + 3 * q;
    float v[6], pull[6], a = alive[q];
    sent(cholesky, rgb, v);
    if (own)
#pragma unroll
      for (int j = 0; j < 3; j++) step[j] = own[(ll)j * gops * n + q];
#pragma unroll
    for (int j = 0; j < 6; j++)
      pull[j] = worth[j] / fmaxf(distance[j], 1e-6f * step[j < 3 ? 1 : 2]) * sign((v[j] - mean[j]) * a);
    float by_rgb[3] = {pull[4], pull[3] - pull[4] - pull[5], pull[5]};
    if (own) {  // a larger amplitude has finer steps of position and shape, a larger Gaussian of colour
      float finer[3] = {2.f / LN2, 0.f, 0.f}, square = step[2] * step[2];
#pragma unroll
      for (int j = 0; j < 6; j++) finer[j < 3 ? 1 : 2] += part_of(distance[j] / step[j < 3 ? 1 : 2]);
#pragma unroll
      for (int j = 0; j < 3; j++) {
        const float* limit = limits + 6 * g + 2 * j;
        finer[j] *= step[j] > limit[0] && step[j] < limit[1] ? price * a : 0.f;
      }
      square = fmaxf(square, rgb[0] * rgb[0] + rgb[1] * rgb[1] + rgb[2] * rgb[2]);
#pragma unroll
      for (int j = 0; j < 3; j++) by_rgb[j] += (finer[0] + finer[1]) / square * rgb[j];
      float larger = (finer[1] + finer[2]) / 2.f;
      pull[0] += larger;
      pull[2] += larger;
    }
    float *to_cholesky = grad + offsets[1] + 3 * q, *to_rgb = grad + offsets[2] + 3 * q;
    to_cholesky[0] += pull[0] / cholesky[0];
    to_cholesky[1] += pull[1] / cholesky[2];
    to_cholesky[2] += pull[2] / cholesky[2];
#pragma unroll
    for (int j = 0; j < 3; j++) to_rgb[j] += by_rgb[j];
  }
}

// One block. noise [3 + tensors] is what the distortion changes with the steps, over many training steps. finest
// bounds log_steps; energies [2] null without adaptive steps.
extern "C" __global__ void __launch_bounds__(STEP_THREADS) rate_steps(
    float* __restrict__ log_steps, float* __restrict__ noise, const float* __restrict__ rates,
    const ll* __restrict__ number, const float* __restrict__ slope, const float* __restrict__ weights,
    const float* __restrict__ finest, const float* __restrict__ NULLABLE energies, const int2* __restrict__ sizes,
    float* __restrict__ sums, int gops, int tensors, float coarsest) {
  __shared__ float color;
  Layout at = layout(sums, gops, tensors);
  int k = threadIdx.x;
  float now = 0.f;
  if (k < 3 + tensors) {
    float by_rate = k == 1 || k == 2 ? at.slopes[k - 1] : 0.f, step = expf(log_steps[k]);
#pragma unroll 1
    for (int g = 0; g < gops; g++) {
      float price = *slope * weights[g];
      if (k == 0) by_rate -= 2.f / LN2 * price * at.gops[OF_GOP * g + ALIVE];
      if (k < 3) continue;
      float count = (float)sizes[k - 3].x;
      by_rate -= price * part_of(at.tensors[2 * ((k - 3) * gops + g) + 1] / count / step) * count;
    }
    float by_noise = noise[k] + 0.02f * (at.noise[k] - noise[k]);
    noise[k] = by_noise;
    now = log_steps[k] - rates[*number] * (by_rate + by_noise) / (fabsf(by_rate) + fabsf(by_noise) + 1e-20f);
    if (k == 2) color = now;
  }
  __syncthreads();
  if (k >= 3 + tensors) return;
  float bound = finest[k];
  if (k == 0 && energies) bound += color + logf(energies[1]) / 2.f;
  log_steps[k] = fmaxf(fminf(now, coarsest), bound);
}

// The middle of the cell that holds v: `cells` of them for each step of `base`, which lie around its multiples.
__device__ __forceinline__ float in_cells(float v, float base, float cells) {
  return (floorf((v / base + 0.5f) * cells) + 0.5f) / cells * base - 0.5f * base;
}

extern "C" __global__ void __launch_bounds__(BLOCK) rate_round(
    const float* __restrict__ flat, float* __restrict__ shown, const float* __restrict__ alive,
    const float* __restrict__ log_steps, const float* __restrict__ NULLABLE energies, float* __restrict__ NULLABLE own,
    float* __restrict__ limits, const int4* __restrict__ rows, const int* __restrict__ offsets,
    const int2* __restrict__ sizes, int gops, int n, float waiting, int octaves, int position_bits, int shape_bits) {
  int4 row = rows[blockIdx.x];
  int k = row.x, g = row.y;
  if (k >= 0) {
    ll first = offsets[3 + k] + (ll)g * sizes[k].x;
    float step = expf(log_steps[3 + k]);
    for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x)
      shown[first + i] = rintf(flat[first + i] / step) * step;
    return;
  }
  float position = expf(log_steps[0]), shape = expf(log_steps[1]), color = expf(log_steps[2]);
  float least_own[3] = {3e38f, 3e38f, 3e38f}, most_own[3] = {0.f, 0.f, 0.f};
  if (energies) position /= color * sqrtf(energies[1]), shape /= color * sqrtf(energies[0]);
  for (int i = row.z + threadIdx.x; i < row.w; i += blockDim.x) {
    ll q = (ll)g * n + i;
    const float *mu = flat + offsets[0] + 2 * q, *cholesky = flat + offsets[1] + 3 * q;
    const float* rgb = flat + offsets[2] + 3 * q;
    float l1 = logf(fmaxf(cholesky[0], MIN_SCALE)), l3 = logf(fmaxf(cholesky[2], MIN_SCALE));
    float tint = color, cells[2] = {1.f, 1.f};
    if (energies) {
      float coarse = floorf(l1 / shape + 0.5f) + floorf(l3 / shape + 0.5f), area = 1.f, energy = 0.f;
      for (int size = 0; size < octaves; size++)
        if (coarse >= (2 * size + 1) * LN2 / shape) area = (float)(4 << 2 * size);
      tint = color / sqrtf(area);
#pragma unroll
      for (int j = 0; j < 3; j++) {
        float level = rintf(rgb[j] / tint);
        energy += level * level;
      }
      for (int bit = 0; bit < position_bits; bit++)
        if (energy >= energies[1] * (float)(1 << 2 * bit) * area) cells[0] = (float)(2 << bit);
      for (int bit = 0; bit < shape_bits; bit++)
        if (energy >= energies[0] * (float)(1 << 2 * bit)) cells[1] = (float)(2 << bit);
      float steps[3] = {position / cells[0], shape / cells[1], tint};
#pragma unroll
      for (int j = 0; j < 3; j++) {
        own[(ll)j * gops * n + q] = steps[j];
        least_own[j] = fminf(least_own[j], steps[j]);
        most_own[j] = fmaxf(most_own[j], steps[j]);
      }
    }
    l1 = expf(in_cells(l1, shape, cells[1]));
    l3 = expf(in_cells(l3, shape, cells[1]));
    float *to_mu = shown + offsets[0] + 2 * q, *to_cholesky = shown + offsets[1] + 3 * q;
    float* to_rgb = shown + offsets[2] + 3 * q;
    bool placed = alive[q] > 0.f;
    to_mu[0] = placed ? in_cells(mu[0], position, cells[0]) : waiting;
    to_mu[1] = placed ? in_cells(mu[1], position, cells[0]) : waiting;
    to_cholesky[0] = l1;
    to_cholesky[1] = in_cells(cholesky[1] / l3, shape, cells[1]) * l3;
    to_cholesky[2] = l3;
#pragma unroll
    for (int j = 0; j < 3; j++) to_rgb[j] = rintf(rgb[j] / tint) * tint;
  }
  if (energies) widen(least_own, most_own, limits + 6 * g);
}
