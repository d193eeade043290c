// The planes xy, xt and yt (GaussianVideo, GSVR) and their gradients: as one table over x and y, which hash_encoding.cu
// looks up.
//
// All Gaussians of a frame share t, so xt and yt are blended to one line of points each. Bilinear lookup in x and y of
//   B[y][x] = (xy[y][x], xt line[x], yt line[y])
// is then the encoding itself: weights over y add up to one for the second part, weights over x for the third. Level l
// holds features 2l and 2l + 1 of each plane.
//
// planes_blend    one thread an entry of the table, [S + 1][S + 1] a level: a position of 1 reaches one point beyond.
// planes_scatter  one block a level and GoP: an entry's gradient is the xy plane's; sums over y and x are the lines',
//                 which go back to the rows that were blended. No atomics: every number is written once.
// Bytes: 8 a plane entry, 16 (blend) or 32 (scatter) an entry of the table.

// Rows of the time axis that t lies between, and how far.
__device__ __forceinline__ int row_before(float t, int rows, float& f) {
  float position = fminf(fmaxf(t, 0.f), 1.f) * (rows - 1);
  int row = min((int)position, max(rows - 2, 0));
  f = position - row;
  return row;
}

__device__ __forceinline__ float2 line_point(const float* plane, int level, int rows, int row, float f, int s, int i) {
  const float* p = plane + (2 * level * rows + row) * s + i;
  const float* q = p + rows * s;
  int next = row + 1 < rows ? s : 0;
  return make_float2(fmaf(f, p[next] - p[0], p[0]), fmaf(f, q[next] - q[0], q[0]));
}

// xy [., 16, S, S], xt and yt [., 16, T, S], t [G] -> blended [G, entries, 8] fp16; gradient [G, entries, 8] float is
// zeroed where it is given. grid: (entries of a level / BLOCK, 8, G)
extern "C" __global__ void __launch_bounds__(BLOCK) planes_blend(
    const float* __restrict__ xy, const float* __restrict__ xt, const float* __restrict__ yt,
    const float* __restrict__ t, const int* __restrict__ NULLABLE gops, uint4* __restrict__ blended,
    float4* __restrict__ NULLABLE gradient, int entries, int s, int rows) {
  int level = blockIdx.y, a = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.z, p = gops ? gops[g] : g;
  if (a >= (s + 1) * (s + 1)) return;
  int x = a % (s + 1), y = a / (s + 1);
  float f, first = 0.f, second = 0.f;
  int row = row_before(t[g], rows, f);
  float2 u = make_float2(0.f, 0.f), v = u;
  if (x < s && y < s) {
    const float* plane = xy + ((ll)p * FEATURES + 2 * level) * s * s + y * s + x;
    first = plane[0];
    second = plane[s * s];
    ll lines = (ll)p * FEATURES * rows * s;
    u = line_point(xt + lines, level, rows, row, f, s, x);
    v = line_point(yt + lines, level, rows, row, f, s, y);
  }
  ll o = (ll)g * entries + level * (s + 1) * (s + 1) + a;
  blended[o] = make_uint4(pack(first, second), pack(u.x, u.y), pack(v.x, v.y), 0);
  if (gradient) gradient[2 * o] = gradient[2 * o + 1] = make_float4(0.f, 0.f, 0.f, 0.f);
}

// gradient [G, entries, 8] float times 1 / unscale -> gradients of the three planes. grid: (8, G), S <= 128
extern "C" __global__ void __launch_bounds__(BLOCK) planes_scatter(
    const float4* __restrict__ gradient, const float* __restrict__ t, float* __restrict__ d_xy,
    float* __restrict__ d_xt, float* __restrict__ d_yt, int entries, int s, int rows, float unscale) {
  int level = blockIdx.x, g = blockIdx.y, pitch = s + 1;
  gradient += 2 * ((ll)g * entries + level * pitch * pitch);
  d_xy += ((ll)g * FEATURES + 2 * level) * s * s;
  for (int i = threadIdx.x; i < s * s; i += blockDim.x) {
    float4 low = gradient[2 * (i / s * pitch + i % s)];
    d_xy[i] = unscale * low.x;
    d_xy[s * s + i] = unscale * low.y;
  }
  bool upright = threadIdx.x >= 128;  // the second half of the block sums for yt
  int i = threadIdx.x & 127;
  if (i >= s) return;
  float first = 0.f, second = 0.f, f;
#pragma unroll 8
  for (int k = 0; k < s; k++) {
    float4 d = gradient[upright ? 2 * (i * pitch + k) + 1 : 2 * (k * pitch + i)];
    first += upright ? d.x : d.z;
    second += upright ? d.y : d.w;
  }
  int row = row_before(t[g], rows, f);
  float* out = (upright ? d_yt : d_xt) + ((ll)g * FEATURES + 2 * level) * rows * s + i;
  for (int r = 0; r < rows; r++) {
    float w = unscale * (r == row ? 1.f - f : (r == row + 1 ? f : 0.f));
    out[r * s] = w * first;
    out[(rows + r) * s] = w * second;
  }
}
