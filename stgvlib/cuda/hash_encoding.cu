// Multiresolution hash encoding (paper, eq. 3-6) in tiny-cuda-nn's layout, batched over GoPs, and its gradients.
//
// hash_forward            one thread a (point, level), one block row a level: a level's table (16 KB for 2^10 x 4) stays
//                         in L1.
// hash_table_gradient     the lanes of a group each own a corner and a feature and walk over neighbouring points.
// hash_position_gradient  one thread a point.
// Table gradients meet in global float atomics, whose order is not fixed: they vary in the last bits.
// Bytes a point and level: 4 D in, 4 F out, 2^D table entries of 4 F from L1.

struct Level {
  float scale[3];
  unsigned resolution[3];
  unsigned offset, size, hashed;
};

template <int D>
__device__ __forceinline__ unsigned entry(const Level& level, const unsigned* cell) {
  if (level.hashed) {
    unsigned h = cell[0] ^ cell[1] * 2654435761u;
    if (D == 3) h ^= cell[2] * 805459861u;
    return h % level.size;
  }
  unsigned index = cell[0] + cell[1] * level.resolution[0];
  if (D == 3) index += cell[2] * level.resolution[0] * level.resolution[1];
  return index % level.size;
}

// levels_meta: [L][9] of 4-byte words, the fields of Level in order
template <int D>
__device__ __forceinline__ Level load_level(const unsigned* meta, int l) {
  Level v;
  for (int d = 0; d < 3; d++) {
    v.scale[d] = __uint_as_float(meta[9 * l + d]);
    v.resolution[d] = meta[9 * l + 3 + d];
  }
  v.offset = meta[9 * l + 6];
  v.size = meta[9 * l + 7];
  v.hashed = meta[9 * l + 8];
  return v;
}

template <int D>
__device__ __forceinline__ void locate(const Level& level, const float* x, unsigned* cell, float* frac, bool* inside) {
#pragma unroll
  for (int d = 0; d < D; d++) {
    float v = fminf(fmaxf(x[d], 0.f), 1.f);
    inside[d] = x[d] >= 0.f && x[d] <= 1.f;
    float p = fmaf(v, level.scale[d], 0.5f), f = floorf(p);
    cell[d] = (unsigned)f;
    frac[d] = p - f;
  }
}

template <int D, int F>
__device__ __forceinline__ void encode(const float* __restrict__ x, const float* __restrict__ table,
                                       const unsigned* __restrict__ meta, float* __restrict__ out, int n, int entries) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, l = blockIdx.y, g = blockIdx.z, levels = gridDim.y;
  if (i >= n) return;
  Level level = load_level<D>(meta, l);
  unsigned cell[D];
  float frac[D];
  bool inside[D];
  long long o = (long long)g * n + i;
  locate<D>(level, x + o * D, cell, frac, inside);
  const float* base = table + ((long long)g * entries + level.offset) * F;
  float sum[F] = {};
#pragma unroll
  for (int c = 0; c < (1 << D); c++) {
    unsigned corner[D];
    float w = 1.f;
#pragma unroll
    for (int d = 0; d < D; d++) {
      int up = c >> d & 1;
      corner[d] = cell[d] + up;
      w *= up ? frac[d] : 1.f - frac[d];
    }
    const float* v = base + entry<D>(level, corner) * F;
#pragma unroll
    for (int f = 0; f < F; f++) sum[f] = fmaf(w, v[f], sum[f]);
  }
#pragma unroll
  for (int f = 0; f < F; f++) out[(o * levels + l) * F + f] = sum[f];
}

// Gradient of the tables: 2^D * F lanes, one for each number that a point reads, walk over `run` neighbouring points and
// add to a register while the cell stays the same. Gaussians lie in Z-order, so at coarse levels it mostly does, and
// one atomic stands for many. d_out has `stride` floats a point. d_table must come zeroed.
template <int D, int F>
__device__ __forceinline__ void table_gradient(const float* __restrict__ x, const unsigned* __restrict__ meta,
                                               const float* __restrict__ d_out, float* __restrict__ d_table, int n,
                                               int entries, int run, int stride) {
  const int lanes = F << D;
  int thread = blockIdx.x * blockDim.x + threadIdx.x, l = blockIdx.y, g = blockIdx.z;
  int f = thread % F, corner = thread / F % (1 << D), first = thread / lanes * run, last = min(n, first + run);
  if (first >= n) return;
  Level level = load_level<D>(meta, l);
  float* target = d_table + ((long long)g * entries + level.offset) * F + f;
  d_out += (long long)g * n * stride + l * F + f;
  x += (long long)g * n * D;
  float sum = 0.f;
  unsigned before[D], cell[D];
  float frac[D];
  bool inside[D];
#pragma unroll
  for (int d = 0; d < D; d++) before[d] = 0xffffffffu;
  float* at = target;
  for (int i = first; i < last; i++) {
    locate<D>(level, x + (long long)i * D, cell, frac, inside);
    bool moved = false;
    float w = 1.f;
#pragma unroll
    for (int d = 0; d < D; d++) {
      moved |= cell[d] != before[d];
      w *= corner >> d & 1 ? frac[d] : 1.f - frac[d];
    }
    if (moved) {
      if (i > first) atomicAdd(at, sum);
      unsigned mine[D];
#pragma unroll
      for (int d = 0; d < D; d++) {
        before[d] = cell[d];
        mine[d] = cell[d] + (corner >> d & 1);
      }
      at = target + entry<D>(level, mine) * F;
      sum = 0.f;
    }
    sum = fmaf(w, d_out[(long long)i * stride], sum);
  }
  atomicAdd(at, sum);
}

// Gradient of the position: one thread a point, over all levels. d_x is written, not added to.
template <int D, int F>
__device__ __forceinline__ void position_gradient(const float* __restrict__ x, const float* __restrict__ table,
                                                  const unsigned* __restrict__ meta, const float* __restrict__ d_out,
                                                  float* __restrict__ d_x, int n, int entries, int levels, int stride) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.y;
  if (i >= n) return;
  long long o = (long long)g * n + i;
  float total[D] = {};
  for (int l = 0; l < levels; l++) {
    Level level = load_level<D>(meta, l);
    const float* base = table + ((long long)g * entries + level.offset) * F;
    unsigned cell[D];
    float frac[D], d[F], dx[D] = {};
    bool inside[D];
    locate<D>(level, x + o * D, cell, frac, inside);
#pragma unroll
    for (int f = 0; f < F; f++) d[f] = d_out[o * stride + l * F + f];
#pragma unroll
    for (int c = 0; c < (1 << D); c++) {
      unsigned corner[D];
      float others[D];
#pragma unroll
      for (int a = 0; a < D; a++) others[a] = c >> a & 1 ? 1.f : -1.f;
#pragma unroll
      for (int a = 0; a < D; a++) {
        corner[a] = cell[a] + (c >> a & 1);
#pragma unroll
        for (int b = 0; b < D; b++)
          if (b != a) others[b] *= c >> a & 1 ? frac[a] : 1.f - frac[a];
      }
      const float* v = base + entry<D>(level, corner) * F;
      float dot = 0.f;
#pragma unroll
      for (int f = 0; f < F; f++) dot = fmaf(v[f], d[f], dot);
#pragma unroll
      for (int a = 0; a < D; a++) dx[a] = fmaf(dot, others[a], dx[a]);
    }
#pragma unroll
    for (int a = 0; a < D; a++)
      if (inside[a]) total[a] = fmaf(dx[a], level.scale[a], total[a]);
  }
#pragma unroll
  for (int a = 0; a < D; a++) d_x[o * D + a] = total[a];
}

#define INSTANCE(D, F)                                                                                              \
  extern "C" __global__ void __launch_bounds__(256) hash_forward_##D##_##F(                                          \
      const float* x, const float* table, const unsigned* meta, float* out, int n, int entries) {                   \
    encode<D, F>(x, table, meta, out, n, entries);                                                                  \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) hash_table_gradient_##D##_##F(                                   \
      const float* x, const unsigned* meta, const float* d_out, float* d_table, int n, int entries, int run,        \
      int stride) {                                                                                                 \
    table_gradient<D, F>(x, meta, d_out, d_table, n, entries, run, stride);                                         \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256, 4) hash_position_gradient_##D##_##F(                             \
      const float* x, const float* table, const unsigned* meta, const float* d_out, float* d_x, int n, int entries, \
      int levels, int stride) {                                                                                     \
    position_gradient<D, F>(x, table, meta, d_out, d_x, n, entries, levels, stride);                                \
  }
INSTANCE(2, 2) INSTANCE(2, 4) INSTANCE(3, 2) INSTANCE(3, 4)
