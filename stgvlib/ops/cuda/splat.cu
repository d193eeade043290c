// The sum of 2D Gaussians (paper, eq. 2) and its gradients, for a batch of GoPs.
//
//   C(p) = sum_n rgb_n exp(-sigma_n(p)),   sigma = |z|^2 / 2,   z = L^-1 (p - mu),   cut where the weight < 1/255.
//
// Everything works on the whitened offset z, so sigma is a sum of squares and can never turn negative, however thin
// the Gaussian. z is scaled by U so that the weight is exp2(-|z|^2).
//
// project_bin  one thread a Gaussian: whitening factors, bounding box, exact ellipse-tile test, per-tile lists. A
//              Gaussian over more than 4x4 tiles is binned by its whole warp, or one would hold up the step.
//              A tile's list holds `capacity` entries; a tile with more scans all N boxes instead: slower, never wrong.
// forward      one block a 16x16 tile, one warp an 8x8 quadrant, two pixels a lane. ~10 instructions a pair.
//              splat_forward writes the image, splat_bytes the image in 8 bits.
// backward     one warp a Gaussian gathers the image gradient over its ellipse, eight columns by four rows at a time:
//              no atomics, so gradients are deterministic given the image gradient. ~16 instructions a pair.
//              Boxes above WIDE px are left to a second kernel with eight warps a Gaussian (splat_..._wide), or a few
//              large Gaussians would hold up the step; project_bin lists them.
// Bytes: 32 a Gaussian and tile forward, 12 a pair backward, nearly all from L1/L2. Training renders with splat_mse.cu.

#define WIDE 8192  // px of a bounding box

__device__ __forceinline__ bool is_wide(short4 box) {
  return box.z >= box.x && (box.z - box.x + 1) * (box.w - box.y + 1) > WIDE;
}

// Does an ellipse around (x, y) reach these tiles of a row of tiles? In bits, of up to four tiles from `tx` on.
__device__ __forceinline__ unsigned reached(float x, float y, float a1, float a3, float k, int tx, int ty,
                                            int columns) {
  float top = ty * TILE + 0.5f - y;
  float2 of = extent(a1, a3, k, top, top + (TILE - 1));
  unsigned hits = 0;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    float left = (tx + j) * TILE + 0.5f - x;
    if (j < columns && of.x <= left + (TILE - 1) && of.y >= left) hits |= 1u << j;
  }
  return hits;
}

// shape[g, n] = x, y, a1, a3;  paint[g, n] = k, r, g, b;  z1 = a1 dx, z2 = a3 dy - k dx
// gops [G] or null: whose Cholesky vectors batch entry g takes; l1 and l3 are raised by `offset`. A Gaussian that is
// not finite is left out, so that a GoP that diverged does not slow the others down.
extern "C" __global__ void __launch_bounds__(BLOCK) project_bin(
    const float* __restrict__ mu, const float* __restrict__ cholesky, const float* __restrict__ rgb,
    const int* __restrict__ NULLABLE gops, float4* __restrict__ shape, float4* __restrict__ paint,
    short4* __restrict__ boxes, int* __restrict__ counts, int* __restrict__ lists, int* __restrict__ wide,
    int* __restrict__ wide_counts, int n, int width, int height, int tiles_x, int tiles_y, int capacity, float offset) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.y, lane = threadIdx.x & 31;
  float x = 0, y = 0, a1 = 0, a3 = 0, k = 0;
  int left = 0, top = 0, columns = 0, tiles = 0;  // of the box, in tiles
  if (i < n) {
    ll o = (ll)g * n + i, q = gops ? (ll)gops[g] * n + i : o;
    x = mu[2 * o]; y = mu[2 * o + 1];
    float l1 = fmaxf(cholesky[3 * q] + offset, MIN_SCALE), l2 = cholesky[3 * q + 1];
    float l3 = fmaxf(cholesky[3 * q + 2] + offset, MIN_SCALE);
    a1 = U / l1; a3 = U / l3;
    k = a3 * l2 / l1;
    shape[o] = make_float4(x, y, a1, a3);
    paint[o] = make_float4(k, rgb[3 * o], rgb[3 * o + 1], rgb[3 * o + 2]);

    // A hair wider than the ellipse: the exact test is made pixel by pixel.
    float hx = RADIUS * l1 * 1.00001f + 1e-3f, hy = RADIUS * sqrtf(l2 * l2 + l3 * l3) * 1.00001f + 1e-3f;
    // Only what this comparison lets through has integers; it is false for a NaN.
    bool finite = fabsf(x) + fabsf(y) + hx + hy < 1e9f;
    int x0 = finite ? max(0, (int)ceilf(x - hx - 0.5f)) : 0;
    int x1 = finite ? min(width - 1, (int)floorf(x + hx - 0.5f)) : -1;
    int y0 = finite ? max(0, (int)ceilf(y - hy - 0.5f)) : 0;
    int y1 = finite ? min(height - 1, (int)floorf(y + hy - 0.5f)) : -1;
    if (x1 < x0 || y1 < y0) {
      boxes[o] = make_short4(32767, 32767, -1, -1);
    } else {
      boxes[o] = make_short4(x0, y0, x1, y1);
      left = x0 / TILE; top = y0 / TILE;
      columns = x1 / TILE - left + 1;
      tiles = columns * (y1 / TILE - top + 1);
      if (is_wide(boxes[o])) wide[(ll)g * n + atomicAdd(&wide_counts[g], 1)] = i;
    }
  }
  unsigned hits = 0;  // bit 4 row + column
  int rows = columns ? tiles / columns : 0;
  bool large = columns > 4 || rows > 4;
  if (!large)
    for (int row = 0; row < rows; row++) hits |= reached(x, y, a1, a3, k, left, top + row, columns) << 4 * row;
  int* counts_of = counts + (ll)g * tiles_y * tiles_x;
  int* lists_of = lists + (ll)g * tiles_y * tiles_x * capacity;
  while (hits) {  // eight at a time: an atomic takes long to come back
    int tile[8], slot[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int bit = __ffs(hits) - 1;
      tile[j] = hits ? (top + (bit >> 2)) * tiles_x + left + (bit & 3) : -1;
      hits &= hits - 1;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) slot[j] = tile[j] < 0 ? capacity : atomicAdd(&counts_of[tile[j]], 1);
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (slot[j] < capacity) lists_of[(ll)tile[j] * capacity + slot[j]] = i;
  }
  for (unsigned left_over = __ballot_sync(FULL, large); left_over; left_over &= left_over - 1) {
    int from = __ffs(left_over) - 1;
    float bx = __shfl_sync(FULL, x, from), by = __shfl_sync(FULL, y, from), b1 = __shfl_sync(FULL, a1, from);
    float b3 = __shfl_sync(FULL, a3, from), bk = __shfl_sync(FULL, k, from);
    int l = __shfl_sync(FULL, left, from), t = __shfl_sync(FULL, top, from), c = __shfl_sync(FULL, columns, from);
    int count = __shfl_sync(FULL, tiles, from), which = i - lane + from;
    for (int j = lane; j < count; j += 32) {
      int tx = l + j % c, ty = t + j / c, tile = ty * tiles_x + tx;
      if (!reached(bx, by, b1, b3, bk, tx, ty, 1)) continue;
      int slot = atomicAdd(&counts_of[tile], 1);
      if (slot < capacity) lists_of[(ll)tile * capacity + slot] = which;
    }
  }
}

// 255 v, rounded to even as torch.round does, within [0, 255]
__device__ __forceinline__ unsigned char eight_bits(float v) {
  return (unsigned char)__float2int_rn(255.f * fminf(fmaxf(v, 0.f), 1.f));
}

__device__ __forceinline__ void add(float3& sum, float weight, float r, float g, float b) {
  sum.x = fmaf(weight, r, sum.x);
  sum.y = fmaf(weight, g, sum.y);
  sum.z = fmaf(weight, b, sum.z);
}

template <bool BYTES>
__device__ __forceinline__ void forward(
    const float4* __restrict__ shape, const float4* __restrict__ paint, const short4* __restrict__ boxes,
    const int* __restrict__ counts, const int* __restrict__ lists, int n, int width, int height, int tiles_x,
    int tiles_y, int capacity, void* __restrict__ image) {
  __shared__ float4 first[THREADS], second[THREADS];
  __shared__ unsigned char reached_by[THREADS];
  int g = blockIdx.z, tile = (g * tiles_y + blockIdx.y) * tiles_x + blockIdx.x;
  int left = blockIdx.x * TILE, top = blockIdx.y * TILE;
  int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  int lx = (warp & 1) * 8 + (lane & 7), ly = (warp >> 1) * 8 + (lane >> 3);
  float fx = lx + 0.5f, fy = ly + 0.5f;
  float3 upper = {}, lower = {};  // four rows below
  int next = tid < capacity ? lists[(ll)tile * capacity + tid] : 0;  // before it is known whether there is one
  int count = counts[tile];
  bool listed = count <= capacity;
  if (!listed) count = n;
  for (int base = 0; base < count; base += THREADS) {
    int m = min(THREADS, count - base);
    if (tid < m) {
      int i = !listed ? base + tid : base ? lists[(ll)tile * capacity + base + tid] : next;
      ll o = (ll)g * n + i;
      short4 box = boxes[o];
      float4 s = shape[o], p = paint[o];
      float dx = s.x - left, dy = s.y - top;
      reached_by[tid] = quadrants(s, p.x, dx, dy, box.y - top, box.w - top);
      first[tid] = make_float4(s.z, -s.z * dx, s.w, p.x * dx - s.w * dy);
      second[tid] = make_float4(-p.x, p.y, p.z, p.w);
    }
    __syncthreads();
    for (int j0 = 0; j0 < m; j0 += 32) {
      int j = j0 + lane;
      unsigned hits = __ballot_sync(FULL, j < m && (reached_by[j] >> warp & 1));
      while (hits) {
        int q = j0 + __ffs(hits) - 1;
        hits &= hits - 1;
        float4 s = first[q], p = second[q];
        float z1 = fmaf(s.x, fx, s.y), t = fmaf(p.x, fx, s.w);
        float z1z1 = z1 * z1, za = fmaf(s.z, fy, t), zb = fmaf(s.z, fy + 4.f, t);
        float da = fmaf(za, za, z1z1), db = fmaf(zb, zb, z1z1);
        float ea = exp2_fast(-da), eb = exp2_fast(-db);
        ea = da <= CUT ? ea : 0.f;
        eb = db <= CUT ? eb : 0.f;
        add(upper, ea, p.y, p.z, p.w);
        add(lower, eb, p.y, p.z, p.w);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int px = left + lx, py = top + ly + 4 * half;
    float3 v = half ? lower : upper;
    if (px < width && py < height) {
      ll o = ((ll)g * height + py) * width + px;
      if (BYTES) ((uchar3*)image)[o] = make_uchar3(eight_bits(v.x), eight_bits(v.y), eight_bits(v.z));
      else ((float3*)image)[o] = v;
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) splat_forward(
    const float4* shape, const float4* paint, const short4* boxes, const int* counts, const int* lists, float* image,
    int n, int width, int height, int tiles_x, int tiles_y, int capacity) {
  forward<false>(shape, paint, boxes, counts, lists, n, width, height, tiles_x, tiles_y, capacity, image);
}

extern "C" __global__ void __launch_bounds__(THREADS) splat_bytes(
    const float4* shape, const float4* paint, const short4* boxes, const int* counts, const int* lists,
    unsigned char* image, int n, int width, int height, int tiles_x, int tiles_y, int capacity) {
  forward<true>(shape, paint, boxes, counts, lists, n, width, height, tiles_x, tiles_y, capacity, image);
}

// Sum eight values over a warp; lane L of the first eight ends with value L. 4 + 2 + 1 + 2 shuffles instead of 40.
__device__ __forceinline__ float reduce8(float v[8], int lane) {
#pragma unroll
  for (int step = 0; step < 3; step++) {
    int half = 4 >> step, bit = 16 >> step;
#pragma unroll
    for (int j = 0; j < half; j++) {
      float keep = lane & bit ? v[j + half] : v[j], send = lane & bit ? v[j] : v[j + half];
      v[j] = keep + __shfl_xor_sync(FULL, send, bit);
    }
  }
  float s = v[0] + __shfl_xor_sync(FULL, v[0], 2);
  s += __shfl_xor_sync(FULL, s, 1);
  return __shfl_sync(FULL, s, (lane & 7) << 2);  // the sum of value v lies in lanes 4v .. 4v + 3
}

// The gradients of Gaussian i of GoP g, by one warp or by all of a block (WARPS).
// image_grad: [G, H, W, 3].
template <int WARPS>
__device__ __forceinline__ void gather(
    int i, int g, short4 box, const float4* __restrict__ shape, const float4* __restrict__ paint,
    const float* __restrict__ cholesky, const float* __restrict__ image_grad, float* __restrict__ d_mu,
    float* __restrict__ d_cholesky, float* __restrict__ d_rgb, int n, int width, int height) {
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  ll o = (ll)g * n + i;
  float4 s = shape[o], p = paint[o];
  image_grad += 3LL * g * height * width;
  float ar = 0, ag = 0, ab = 0, s1 = 0, s2 = 0, s11 = 0, s12 = 0, s22 = 0;
  float inv_a3 = 1.f / s.w;
  for (int xc = (box.x & ~3) + (WARPS > 1 ? 8 * warp : 0); xc <= box.z; xc += 8 * WARPS) {
    int x = xc + (lane & 7);
    float dx = x + 0.5f - s.x, z1 = s.z * dx, z1z1 = z1 * z1, t = p.x * dx;
    // Rows of this column inside the ellipse, then of these eight columns together, so that lanes stay side by side.
    float room = CUT * 1.0001f - z1z1;
    bool inside = room >= 0.f && x >= box.x && x <= box.z;
    float reach = sqrtf(fmaxf(room, 0.f));
    float low = inside ? s.y - 0.5f + (t - reach) * inv_a3 : 3e4f;
    float high = inside ? s.y - 0.5f + (t + reach) * inv_a3 : -3e4f;
#pragma unroll
    for (int d = 4; d; d >>= 1) {
      low = fminf(low, __shfl_xor_sync(FULL, low, d));
      high = fmaxf(high, __shfl_xor_sync(FULL, high, d));
    }
    int y0 = (int)ceilf(fminf(fmaxf(low - 1e-3f, box.y), box.w + 1));  // compared before it is an integer
    int y1 = (int)floorf(fmaxf(fminf(high + 1e-3f, box.w), box.y - 1));
    float w0 = 0, w2 = 0, w22 = 0;
    for (int y = y0 + (lane >> 3); y <= y1; y += 4) {
      float dr, dg, db;
      if (!inside) {
        dr = dg = db = 0.f;
      } else {
        const float* q = image_grad + 3LL * (y * width + x);
        dr = q[0], dg = q[1], db = q[2];
      }
      float z2 = fmaf(s.w, y + 0.5f - s.y, -t), d2 = fmaf(z2, z2, z1z1);
      float e = exp2_fast(-d2);
      e = d2 <= CUT ? e : 0.f;
      ar = fmaf(e, dr, ar), ag = fmaf(e, dg, ag), ab = fmaf(e, db, ab);
      float w = e * fmaf(dr, p.y, fmaf(dg, p.z, db * p.w)), wz = w * z2;
      w0 += w, w2 += wz, w22 = fmaf(wz, z2, w22);
    }
    s1 = fmaf(z1, w0, s1), s2 += w2;
    s11 = fmaf(z1z1, w0, s11), s12 = fmaf(z1, w2, s12), s22 += w22;
  }
  float v[8] = {ar, ag, ab, s1, s2, s11, s12, s22};
  float total = reduce8(v, lane);
  if (WARPS > 1) {
    __shared__ float sums[WARPS][8];
    if (lane < 8) sums[warp][lane] = total;
    __syncthreads();
    total = 0.f;
    for (int w = 0; w < WARPS; w++) total += sums[w][lane & 7];
    __syncthreads();
    if (warp) return;
  }
  s1 = __shfl_sync(FULL, total, 3), s2 = __shfl_sync(FULL, total, 4);
  s11 = __shfl_sync(FULL, total, 5), s12 = __shfl_sync(FULL, total, 6), s22 = __shfl_sync(FULL, total, 7);
  if (lane < 3) {
    d_rgb[3 * o + lane] = total;
    float d = d_scale(lane, s, p.x, s11, s12, s22);
    if (lane != 1 && cholesky[3 * o + lane] < MIN_SCALE) d = 0.f;
    d_cholesky[3 * o + lane] = d;
    if (lane < 2) d_mu[2 * o + lane] = d_centre(lane, s, p.x, s1, s2);
  }
}

// A warp for each small Gaussian (WARPS is 1), or a block for each wide one (GATHER_WARPS).
#define BACKWARD(NAME, WARPS)                                                                                          \
  extern "C" __global__ void __launch_bounds__(32 * GATHER_WARPS, 4) NAME(                                             \
      const float4* shape, const float4* paint, const short4* boxes, const float* cholesky, const float* image_grad,   \
      float* d_mu, float* d_cholesky, float* d_rgb, const int* wide, const int* wide_counts, int n, int width,         \
      int height) {                                                                                                    \
    int g = blockIdx.y;                                                                                                \
    if (WARPS == 1) {                                                                                                  \
      int i = blockIdx.x * GATHER_WARPS + (threadIdx.x >> 5);                                                          \
      if (i >= n) return;                                                                                              \
      short4 box = boxes[(ll)g * n + i];                                                                        \
      if (!is_wide(box)) gather<1>(i, g, box, GIVEN);                                                                  \
    } else {                                                                                                           \
      for (int j = blockIdx.x; j < wide_counts[g]; j += gridDim.x) {                                                   \
        int i = wide[(ll)g * n + j];                                                                            \
        gather<GATHER_WARPS>(i, g, boxes[(ll)g * n + i], GIVEN);                                                \
      }                                                                                                                \
    }                                                                                                                  \
  }

#define GIVEN shape, paint, cholesky, image_grad, d_mu, d_cholesky, d_rgb, n, width, height
BACKWARD(splat_backward, 1)
BACKWARD(splat_backward_wide, GATHER_WARPS)
