// Multiresolution hash encoding (paper, eq. 3-6) in tiny-cuda-nn's layout, batched over GoPs, and its gradients.
//
// One thread a (point, level), one block row a level, so that a level's table (at most 16 KB for 2^10 x 4) stays in L1.
// Backward: a block adds its points' gradients into a shared copy of the level's table where that fits, then adds the
// copy to global memory once; the order of these float additions is not fixed, so table gradients vary in the last bits.
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

// d_x may be null; it must come zeroed, for levels add to it. d_table must come zeroed.
template <int D, int F>
__device__ __forceinline__ void encode_gradient(
    const float* __restrict__ x, const float* __restrict__ table, const unsigned* __restrict__ meta,
    const float* __restrict__ d_out, float* __restrict__ d_table, float* __restrict__ d_x, int n, int entries,
    int shared_entries, int points_per_block) {
  extern __shared__ float copy[];
  int l = blockIdx.y, g = blockIdx.z, levels = gridDim.y;
  Level level = load_level<D>(meta, l);
  long long offset = ((long long)g * entries + level.offset) * F;
  const float* base = table + offset;
  bool use_shared = level.size <= (unsigned)shared_entries;
  float* target = use_shared ? copy : d_table + offset;
  if (use_shared) {
    for (int k = threadIdx.x; k < level.size * F; k += blockDim.x) copy[k] = 0.f;
    __syncthreads();
  }
  int end = min(n, (int)(blockIdx.x + 1) * points_per_block);
  for (int i = blockIdx.x * points_per_block + threadIdx.x; i < end; i += blockDim.x) {
    unsigned cell[D];
    float frac[D], dx[D] = {}, d[F];
    bool inside[D];
    long long o = (long long)g * n + i;
    locate<D>(level, x + o * D, cell, frac, inside);
#pragma unroll
    for (int f = 0; f < F; f++) d[f] = d_out[(o * levels + l) * F + f];
#pragma unroll
    for (int c = 0; c < (1 << D); c++) {
      unsigned corner[D];
      float w = 1.f, others[D];
#pragma unroll
      for (int a = 0; a < D; a++) others[a] = 1.f;
#pragma unroll
      for (int a = 0; a < D; a++) {
        int up = c >> a & 1;
        float v = up ? frac[a] : 1.f - frac[a];
        corner[a] = cell[a] + up;
        w *= v;
#pragma unroll
        for (int b = 0; b < D; b++)
          if (b != a) others[b] *= v;
      }
      unsigned at = entry<D>(level, corner) * F;
      float dot = 0.f;
#pragma unroll
      for (int f = 0; f < F; f++) {
        dot = fmaf(base[at + f], d[f], dot);
        atomicAdd(target + at + f, w * d[f]);
      }
#pragma unroll
      for (int a = 0; a < D; a++) dx[a] += (c >> a & 1 ? dot : -dot) * others[a];
    }
    if (d_x)
#pragma unroll
      for (int a = 0; a < D; a++)
        if (inside[a]) atomicAdd(d_x + o * D + a, dx[a] * level.scale[a]);
  }
  if (use_shared) {
    __syncthreads();
    for (int k = threadIdx.x; k < level.size * F; k += blockDim.x) atomicAdd(d_table + offset + k, copy[k]);
  }
}

#define INSTANCE(D, F)                                                                                              \
  extern "C" __global__ void __launch_bounds__(256) hash_forward_##D##_##F(                                          \
      const float* x, const float* table, const unsigned* meta, float* out, int n, int entries) {                   \
    encode<D, F>(x, table, meta, out, n, entries);                                                                  \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256, 4) hash_backward_##D##_##F(                                         \
      const float* x, const float* table, const unsigned* meta, const float* d_out, float* d_table, float* d_x,     \
      int n, int entries, int shared_entries, int points_per_block) {                                               \
    encode_gradient<D, F>(x, table, meta, d_out, d_table, d_x, n, entries, shared_entries, points_per_block);       \
  }
INSTANCE(2, 2) INSTANCE(2, 4) INSTANCE(3, 2) INSTANCE(3, 4)
