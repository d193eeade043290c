// The 2D and the 3D hash encoding of all Gaussians (paper, eq. 3-6) in tiny-cuda-nn's layout, and their gradients.
//
// All Gaussians of a frame have the same t, and both encodings have the same cells in x and y. So the two table slices
// that a 3D level touches are blended once a frame,  B[a] = (1 - f) T[a ^ h(z)] + f T[a ^ h(z + 1)],  which is exact:
// the hash is an xor. What is left is one 2D encoding of six features a level: half the corners, one lookup for both.
//
// hash_blend     one thread an entry of the blended table: 2 spatial, 4 temporal features as fp16, padded to 16 bytes.
// hash_forward   a block takes one level and some 2,000 points, with the level in shared memory.
// hash_backward  the same blocks. A thread finds its point's position gradient; then a warp walks over its 32 points, a
//                lane for each corner and feature, and adds to a register while the cell stays the same: Gaussians lie
//                in Z-order, so at coarse levels one atomic stands for many.
// hash_scatter   the blended table's gradient back to the entries that were blended.
// hash_forward and hash_backward also look up the planes (planes.cu), whose table is dense at every level.
// Sums by float atomics have no fixed order: gradients of tables and positions vary in the last bits.
// Bytes a point and level: 8 in, 16 out; 4 entries of 16 bytes from shared memory (hash_forward).

#define FULL 0xffffffffu
#define SLOTS 8  // numbers a blended entry: 2 spatial, 4 temporal, 2 unused

struct Level {
  float scale, scale_z;       // cells of x and y, and of time
  int offset, size;           // of the blended table
  int stride;                 // of its rows where it is dense, 0 where it is hashed: entry (x ^ y * prime) & (size - 1)
  int resolution_x, resolution_y;
  int offset2, size2;         // of the spatial table, -1 without one
  int offset3, size3, hashed3;
  float shift;                // where in its cell a position of 0 lies
};

__device__ __forceinline__ int entry(const Level& v, int x, int y) {
  return v.stride ? x + y * v.stride : (int)(((unsigned)x ^ (unsigned)y * Y_PRIME) & (v.size - 1));
}

// Entries of the two time slices that make up blended entry `a`, and of the spatial table. False for padding.
__device__ __forceinline__ void sources(const Level& v, int a, float t, int& e2, int& e3, int& e3_next, float& f) {
  float position = fmaf(fminf(fmaxf(t, 0.f), 1.f), v.scale_z, 0.5f), cell = floorf(position);
  unsigned z = (unsigned)cell, hash = a;
  f = position - cell;
  e2 = a;
  if (v.stride) {
    unsigned x = a % v.stride, y = a / v.stride;
    e2 = (x + y * v.resolution_x) % v.size2;
    hash = x ^ y * Y_PRIME;
    if (!v.hashed3) {
      unsigned flat = x + y * v.resolution_x, slice = v.resolution_x * v.resolution_y;
      e3 = (flat + z * slice) % v.size3;
      e3_next = (flat + (z + 1) * slice) % v.size3;
      return;
    }
  }
  e3 = (hash ^ z * Z_PRIME) & (v.size3 - 1);
  e3_next = (hash ^ (z + 1) * Z_PRIME) & (v.size3 - 1);
}

// spatial [., entries2, 2] or null, temporal [., entries3, 4] or null, t [G] -> blended [G, entries, 8] fp16.
// gradient [G, entries, 8] float is zeroed where it is given. grid: (entries of the largest level / BLOCK, levels, G)
extern "C" __global__ void __launch_bounds__(BLOCK) hash_blend(
    const float2* __restrict__ NULLABLE spatial, const float4* __restrict__ NULLABLE temporal,
    const Level* __restrict__ levels, const float* __restrict__ t, const int* __restrict__ NULLABLE gops,
    uint4* __restrict__ blended, float4* __restrict__ NULLABLE gradient, int entries, int entries2, int entries3) {
  Level v = levels[blockIdx.y];
  int a = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.z, p = gops ? gops[g] : g;
  if (a >= v.size) return;
  int e2, e3, e3_next;
  float f;
  sources(v, a, t[g], e2, e3, e3_next, f);
  float2 s = spatial ? spatial[(ll)p * entries2 + v.offset2 + e2] : make_float2(0.f, 0.f);
  float4 u = make_float4(0.f, 0.f, 0.f, 0.f);
  if (temporal) {
    const float4* table = temporal + (ll)p * entries3 + v.offset3;
    float4 first = table[e3], second = table[e3_next];
    u.x = fmaf(f, second.x - first.x, first.x);
    u.y = fmaf(f, second.y - first.y, first.y);
    u.z = fmaf(f, second.z - first.z, first.z);
    u.w = fmaf(f, second.w - first.w, first.w);
  }
  ll o = (ll)g * entries + v.offset + a;
  blended[o] = make_uint4(pack(s.x, s.y), pack(u.x, u.y), pack(u.z, u.w), 0);
  if (gradient) gradient[2 * o] = gradient[2 * o + 1] = make_float4(0.f, 0.f, 0.f, 0.f);
}

// gradient [G, entries, 8] float times 1 / unscale -> added to the gradients of both tables, which come zeroed.
extern "C" __global__ void __launch_bounds__(BLOCK) hash_scatter(
    const float4* __restrict__ gradient, const Level* __restrict__ levels, const float* __restrict__ t,
    float* __restrict__ NULLABLE d_spatial, float* __restrict__ NULLABLE d_temporal, int entries, int entries2,
    int entries3, float unscale) {
  Level v = levels[blockIdx.y];
  int a = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.z;
  if (a >= v.size) return;
  int e2, e3, e3_next;
  float f;
  sources(v, a, t[g], e2, e3, e3_next, f);
  ll o = (ll)g * entries + v.offset + a;
  float4 low = gradient[2 * o], high = gradient[2 * o + 1];
  if (low.x == 0.f && low.y == 0.f && low.z == 0.f && low.w == 0.f && high.x == 0.f && high.y == 0.f) return;
  if (d_spatial) add2(d_spatial + 2 * ((ll)g * entries2 + v.offset2 + e2), unscale * low.x, unscale * low.y);
  if (d_temporal) {
    float* table = d_temporal + 4 * ((ll)g * entries3 + v.offset3);
    float u = unscale * (1.f - f), w = unscale * f;
    add4(table + 4 * e3, u * low.z, u * low.w, u * high.x, u * high.y);
    add4(table + 4 * e3_next, w * low.z, w * low.w, w * high.x, w * high.y);
  }
}

struct Place {
  int x, y;
  float fx, fy;
  bool inside_x, inside_y;
};

__device__ __forceinline__ Place locate(const Level& v, float x, float y) {
  Place at;
  at.inside_x = x >= 0.f && x <= 1.f;
  at.inside_y = y >= 0.f && y <= 1.f;
  float px = fmaf(fminf(fmaxf(x, 0.f), 1.f), v.scale, v.shift);
  float py = fmaf(fminf(fmaxf(y, 0.f), 1.f), v.scale, v.shift);
  float cx = floorf(px), cy = floorf(py);
  at.x = (int)cx; at.y = (int)cy;
  at.fx = px - cx; at.fy = py - cy;
  return at;
}

// The level in shared memory where it was given room (staged), else where it lies.
__device__ __forceinline__ const uint4* stage(const uint4* table, int size, uint4* shared, int staged) {
  if (!staged) return table;
  for (int i = threadIdx.x; i < size; i += blockDim.x) shared[i] = table[i];
  __syncthreads();
  return shared;
}

// mu [., n, 2] px, blended [G, entries, 8] -> x [G, levels, rows, 8] fp16. grid: (blocks of `points`, levels, G)
extern "C" __global__ void __launch_bounds__(BLOCK) hash_forward(
    const float2* __restrict__ mu, const uint4* __restrict__ blended, const Level* __restrict__ levels,
    const int* __restrict__ NULLABLE gops, uint4* __restrict__ x, int n, int rows, int entries, int points, int staged,
    float width, float height) {
  extern __shared__ uint4 shared[];
  Level v = levels[blockIdx.y];
  int g = blockIdx.z, p = gops ? gops[g] : g;
  const uint4* table = stage(blended + (ll)g * entries + v.offset, v.size, shared, staged);
  mu += (ll)p * n;
  x += ((ll)g * gridDim.y + blockIdx.y) * rows;
  int last = min(n, (int)(blockIdx.x + 1) * points);
  for (int i = blockIdx.x * points + threadIdx.x; i < last; i += blockDim.x) {
    float2 m = mu[i];
    Place at = locate(v, m.x / width, m.y / height);
    float sum[6] = {};
#pragma unroll
    for (int c = 0; c < 4; c++) {
      float w = (c & 1 ? at.fx : 1.f - at.fx) * (c & 2 ? at.fy : 1.f - at.fy);
      uint4 e = table[entry(v, at.x + (c & 1), at.y + (c >> 1))];
      float2 s = unpack(e.x), a = unpack(e.y), b = unpack(e.z);
      sum[0] = fmaf(w, s.x, sum[0]); sum[1] = fmaf(w, s.y, sum[1]);
      sum[2] = fmaf(w, a.x, sum[2]); sum[3] = fmaf(w, a.y, sum[3]);
      sum[4] = fmaf(w, b.x, sum[4]); sum[5] = fmaf(w, b.y, sum[5]);
    }
    x[i] = make_uint4(pack(sum[0], sum[1]), pack(sum[2], sum[3]), pack(sum[4], sum[5]), 0);
  }
}

// dx [G, levels, rows, 8] fp16 times 1 / unscale -> added to gradient [G, entries, 8] (still scaled) and to d_mu
// [G, n, 2] (unscaled).
extern "C" __global__ void __launch_bounds__(BLOCK) hash_backward(
    const float2* __restrict__ mu, const uint4* __restrict__ blended, const Level* __restrict__ levels,
    const uint4* __restrict__ dx, float* __restrict__ gradient, float* __restrict__ d_mu, int n, int rows, int entries,
    int points, int staged, float width, float height, float unscale) {
  extern __shared__ uint4 shared[];
  // What a warp's walk needs of its points: weights and entries of the corners, gradient of the features.
  __shared__ float4 weights[BLOCK / 32][32], gradients[BLOCK / 32][32][2];
  __shared__ int4 targets[BLOCK / 32][32];
  Level v = levels[blockIdx.y];
  int g = blockIdx.z, warp = threadIdx.x >> 5, lane = threadIdx.x & 31, corner = lane >> 3, f = lane & 7;
  const uint4* table = stage(blended + (ll)g * entries + v.offset, v.size, shared, staged);
  mu += (ll)g * n;
  dx += ((ll)g * gridDim.y + blockIdx.y) * rows;
  d_mu += 2 * (ll)g * n;
  gradient += ((ll)g * entries + v.offset) * SLOTS + f;
  int last = min(n, (int)(blockIdx.x + 1) * points);
  for (int base = blockIdx.x * points + 32 * warp; base < last; base += BLOCK) {
    int i = base + lane;
    unsigned cell = FULL;
    if (i < last) {
      float2 m = mu[i];
      Place at = locate(v, m.x / width, m.y / height);
      uint4 d = dx[i];
      float2 s = unpack(d.x), a = unpack(d.y), b = unpack(d.z);
      float dot[4], w[4];
      int target[4];
#pragma unroll
      for (int c = 0; c < 4; c++) {
        int which = entry(v, at.x + (c & 1), at.y + (c >> 1));
        uint4 e = table[which];
        float2 u = unpack(e.x), p = unpack(e.y), q = unpack(e.z);
        dot[c] = fmaf(u.x, s.x, fmaf(u.y, s.y, fmaf(p.x, a.x, fmaf(p.y, a.y, fmaf(q.x, b.x, q.y * b.y)))));
        w[c] = (c & 1 ? at.fx : 1.f - at.fx) * (c & 2 ? at.fy : 1.f - at.fy);
        target[c] = which * SLOTS;
      }
      float gx = fmaf(1.f - at.fy, dot[1] - dot[0], at.fy * (dot[3] - dot[2]));
      float gy = fmaf(1.f - at.fx, dot[2] - dot[0], at.fx * (dot[3] - dot[1]));
      add2(d_mu + 2 * i, at.inside_x ? gx * v.scale * unscale / width : 0.f,
           at.inside_y ? gy * v.scale * unscale / height : 0.f);
      cell = at.x | at.y << 16;
      weights[warp][lane] = make_float4(w[0], w[1], w[2], w[3]);
      targets[warp][lane] = make_int4(target[0], target[1], target[2], target[3]);
      gradients[warp][lane][0] = make_float4(s.x, s.y, a.x, a.y);
      gradients[warp][lane][1] = make_float4(b.x, b.y, 0.f, 0.f);
    }
    unsigned heads = __ballot_sync(FULL, cell != __shfl_up_sync(FULL, cell, 1));
    int count = min(32, last - base);
    __syncwarp();
    float sum = 0.f;
#pragma unroll 4
    for (int j = 0; j < count; j++) {
      sum = fmaf(((const float*)&weights[warp][j])[corner], ((const float*)gradients[warp][j])[f], sum);
      if (j + 1 == count || heads >> (j + 1) & 1) {
        if (f < 6) atomicAdd(gradient + ((const int*)&targets[warp][j])[corner], sum);
        sum = 0.f;
      }
    }
    __syncwarp();
  }
}
