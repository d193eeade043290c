// The sum of 2D Gaussians (paper, eq. 2) and its gradients, for a batch of GoPs.
//
//   C(p) = sum_n rgb_n exp(-sigma_n(p)),   sigma = |z|^2 / 2,   z = L^-1 (p - mu),   cut where the weight < 1/255.
//
// Everything works on the whitened offset z, so sigma is a sum of squares and can never turn negative, however thin
// the Gaussian. z is scaled by U so that the weight is exp2(-|z|^2).
//
// project_bin  one thread a Gaussian: whitening factors, bounding box, exact ellipse-tile test, per-tile lists. A
//              Gaussian over more than SMALL_TILES tiles is binned by its whole warp, or one would hold up the step.
//              A tile's list holds `capacity` entries; a tile with more scans all N boxes instead: slower, never wrong.
// forward      one block a 16x16 tile, one warp an 8x8 quadrant, two pixels a lane. ~10 instructions a pair.
//              splat_forward writes the image, splat_bytes the image in 8 bits; splat_mse_forward compares with a uint8
//              RGBA frame (A = loss weight), writes the weighted residual as fp16 x 4 (8 bytes a pixel) and one partial
//              loss a tile, which mse_loss adds up.
// backward     one warp a Gaussian gathers the image gradient over its ellipse, eight columns by four rows at a time:
//              no atomics, so gradients are deterministic given the image gradient. ~16 instructions a pair.
//              Boxes above WIDE px are left to a second kernel with eight warps a Gaussian (splat_..._wide), or a few
//              large Gaussians would hold up the step; project_bin lists them.
// Bytes: 32 a Gaussian and tile forward, 8 (mse) or 12 a pair backward, nearly all from L1/L2.

#define U 0.8493218002880191f         // sqrt(log2(e) / 2)
#define FULL 0xffffffffu
#define SMALL_TILES 6
#define WIDE 8192                     // px of a bounding box

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Smallest |z|^2 over the rectangle [x0, x1] x [y0, y1] of offsets from the centre.
__device__ __forceinline__ float nearest(float a1, float a3, float k, float x0, float x1, float y0, float y1) {
  if (x0 <= 0.f && x1 >= 0.f && y0 <= 0.f && y1 >= 0.f) return 0.f;
  float best = 3.4e38f;
  float dx = x0 > 0.f ? x0 : (x1 < 0.f ? x1 : 0.f);
  if (dx != 0.f) {
    float dy = fminf(fmaxf(k * dx / a3, y0), y1), z1 = a1 * dx, z2 = a3 * dy - k * dx;
    best = z1 * z1 + z2 * z2;
  }
  float dy = y0 > 0.f ? y0 : (y1 < 0.f ? y1 : 0.f);
  if (dy != 0.f) {
    float ex = fminf(fmaxf(k * a3 * dy / (a1 * a1 + k * k), x0), x1), z1 = a1 * ex, z2 = a3 * dy - k * ex;
    best = fminf(best, z1 * z1 + z2 * z2);
  }
  return best;
}

__device__ __forceinline__ bool is_wide(short4 box) {
  return box.z >= box.x && (box.z - box.x + 1) * (box.w - box.y + 1) > WIDE;
}

// Put Gaussian i into the list of a tile that its ellipse reaches.
__device__ __forceinline__ void bin(float x, float y, float a1, float a3, float k, int tx, int ty, int i, int g,
                                    int* __restrict__ counts, int* __restrict__ lists, int tiles_x, int tiles_y,
                                    int capacity) {
  float rx = tx * TILE + 0.5f - x, ry = ty * TILE + 0.5f - y;
  if (nearest(a1, a3, k, rx, rx + (TILE - 1), ry, ry + (TILE - 1)) > CUT * 1.0001f) return;
  int tile = (g * tiles_y + ty) * tiles_x + tx;
  int slot = atomicAdd(&counts[tile], 1);
  if (slot < capacity) lists[(long long)tile * capacity + slot] = i;
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
    long long o = (long long)g * n + i, q = gops ? (long long)gops[g] * n + i : o;
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
      if (is_wide(boxes[o])) wide[(long long)g * n + atomicAdd(&wide_counts[g], 1)] = i;
    }
  }
  for (int j = 0; j < (tiles <= SMALL_TILES ? tiles : 0); j++)
    bin(x, y, a1, a3, k, left + j % columns, top + j / columns, i, g, counts, lists, tiles_x, tiles_y, capacity);
  unsigned large = __ballot_sync(FULL, tiles > SMALL_TILES);
  while (large) {
    int from = __ffs(large) - 1;
    large &= large - 1;
    float bx = __shfl_sync(FULL, x, from), by = __shfl_sync(FULL, y, from), b1 = __shfl_sync(FULL, a1, from);
    float b3 = __shfl_sync(FULL, a3, from), bk = __shfl_sync(FULL, k, from);
    int l = __shfl_sync(FULL, left, from), t = __shfl_sync(FULL, top, from), c = __shfl_sync(FULL, columns, from);
    int count = __shfl_sync(FULL, tiles, from), which = i - lane + from;
    for (int j = lane; j < count; j += 32)
      bin(bx, by, b1, b3, bk, l + j % c, t + j / c, which, g, counts, lists, tiles_x, tiles_y, capacity);
  }
}

// 255 v, rounded to even as torch.round does, within [0, 255]
__device__ __forceinline__ unsigned char eight_bits(float v) {
  return (unsigned char)__float2int_rn(255.f * fminf(fmaxf(v, 0.f), 1.f));
}

// v, but no further from zero than `most`; NaN stays NaN
__device__ __forceinline__ float within(float v, float most) { return v > most ? most : v < -most ? -most : v; }

// v in [0, 1]; NaN stays NaN
__device__ __forceinline__ float clamped(float v) { return v > 1.f ? 1.f : v < 0.f ? 0.f : v; }

__device__ __forceinline__ void add(float3& sum, float weight, float r, float g, float b) {
  sum.x = fmaf(weight, r, sum.x);
  sum.y = fmaf(weight, g, sum.y);
  sum.z = fmaf(weight, b, sum.z);
}

// What the forward pass leaves.
#define IMAGE 0
#define MSE 1
#define BYTES 2

template <int WRITES>
__device__ __forceinline__ void forward(
    const float4* __restrict__ shape, const float4* __restrict__ paint, const short4* __restrict__ boxes,
    const int* __restrict__ counts, const int* __restrict__ lists, int n, int width, int height, int tiles_x,
    int tiles_y, int capacity, void* __restrict__ image, const uchar4* __restrict__ frames = 0,
    const int* __restrict__ frame_index = 0, uint2* __restrict__ residual = 0, float* __restrict__ loss = 0,
    int num_frames = 0, float huber = 0, int clamp = 0) {
  __shared__ float4 first[THREADS], second[THREADS];
  __shared__ unsigned char quadrants[THREADS];
  int g = blockIdx.z, tile = (g * tiles_y + blockIdx.y) * tiles_x + blockIdx.x;
  int left = blockIdx.x * TILE, top = blockIdx.y * TILE;
  int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  int lx = (warp & 1) * 8 + (lane & 7), ly = (warp >> 1) * 8 + (lane >> 3);
  float fx = lx + 0.5f, fy = ly + 0.5f;
  float3 upper = {}, lower = {};  // four rows below
  int count = counts[tile];
  bool listed = count <= capacity;
  if (!listed) count = n;
  for (int base = 0; base < count; base += THREADS) {
    int m = min(THREADS, count - base);
    if (tid < m) {
      int i = listed ? lists[(long long)tile * capacity + base + tid] : base + tid;
      long long o = (long long)g * n + i;
      short4 box = boxes[o];
      int bx0 = box.x - left, by0 = box.y - top, bx1 = box.z - left, by1 = box.w - top;
      unsigned columns = (bx0 < 8 && bx1 >= 0 ? 5u : 0u) | (bx0 < 16 && bx1 >= 8 ? 10u : 0u);
      unsigned rows = (by0 < 8 && by1 >= 0 ? 3u : 0u) | (by0 < 16 && by1 >= 8 ? 12u : 0u);
      quadrants[tid] = columns & rows;
      float4 s = shape[o], p = paint[o];
      float dx = s.x - left, dy = s.y - top;
      first[tid] = make_float4(s.z, -s.z * dx, s.w, p.x * dx - s.w * dy);
      second[tid] = make_float4(-p.x, p.y, p.z, p.w);
    }
    __syncthreads();
    for (int j0 = 0; j0 < m; j0 += 32) {
      int j = j0 + lane;
      unsigned hits = __ballot_sync(FULL, j < m && (quadrants[j] >> warp & 1));
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
  float sum = 0;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int px = left + lx, py = top + ly + 4 * half;
    float3 v = half ? lower : upper;
    if (px < width && py < height) {
      long long o = ((long long)g * height + py) * width + px;
      if (WRITES == MSE) {
        long long f = (((long long)g * num_frames + frame_index[g]) * height + py) * width + px;
        uchar4 target = frames[f];
        float weight = target.w * (1 / 255.f);
        float3 shown = v;
        if (clamp) shown = make_float3(clamped(v.x), clamped(v.y), clamped(v.z));
        float r = shown.x - target.x * (1 / 255.f), hr = within(r, huber);
        float gg = shown.y - target.y * (1 / 255.f), hg = within(gg, huber);
        float b = shown.z - target.z * (1 / 255.f), hb = within(b, huber);
        sum += weight * (hr * (2 * r - hr) + hg * (2 * gg - hg) + hb * (2 * b - hb));
        if (shown.x != v.x) hr = 0;  // no gradient outside of [0, 1]
        if (shown.y != v.y) hg = 0;
        if (shown.z != v.z) hb = 0;
        residual[o] = make_uint2(pack(weight * hr, weight * hg), pack(weight * hb, 0.f));
      } else if (WRITES == BYTES) {
        ((uchar3*)image)[o] = make_uchar3(eight_bits(v.x), eight_bits(v.y), eight_bits(v.z));
      } else {
        ((float3*)image)[o] = v;
      }
    }
  }
  if (WRITES == MSE) {
    __shared__ float parts[THREADS / 32];
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(FULL, sum, d);
    if (lane == 0) parts[warp] = sum;
    __syncthreads();
    if (tid == 0) loss[tile] = parts[0] + parts[1] + parts[2] + parts[3];
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) splat_forward(
    const float4* shape, const float4* paint, const short4* boxes, const int* counts, const int* lists, float* image,
    int n, int width, int height, int tiles_x, int tiles_y, int capacity) {
  forward<IMAGE>(shape, paint, boxes, counts, lists, n, width, height, tiles_x, tiles_y, capacity, image);
}

extern "C" __global__ void __launch_bounds__(THREADS) splat_bytes(
    const float4* shape, const float4* paint, const short4* boxes, const int* counts, const int* lists,
    unsigned char* image, int n, int width, int height, int tiles_x, int tiles_y, int capacity) {
  forward<BYTES>(shape, paint, boxes, counts, lists, n, width, height, tiles_x, tiles_y, capacity, image);
}

// frames [G, T, H, W] uchar4, frame_index [G], residual [G, H, W], loss [G, tiles]: squares, beyond `huber` linear;
// with `clamp` of the picture clamped to [0, 1], outside of which there is no gradient
extern "C" __global__ void __launch_bounds__(THREADS) splat_mse_forward(
    const float4* shape, const float4* paint, const short4* boxes, const int* counts, const int* lists,
    const uchar4* frames, const int* frame_index, uint2* residual, float* loss,
    int n, int width, int height, int tiles_x, int tiles_y, int capacity, int num_frames, float huber, int clamp) {
  forward<MSE>(shape, paint, boxes, counts, lists, n, width, height, tiles_x, tiles_y, capacity, 0, frames,
               frame_index, residual, loss, num_frames, huber, clamp);
}

// partial [G, tiles] -> losses [step, G], each times factor
extern "C" __global__ void __launch_bounds__(BLOCK) mse_loss(
    const float* __restrict__ partial, const long long* __restrict__ step, float* __restrict__ losses, int tiles,
    float factor) {
  __shared__ float sums[BLOCK / 32];
  float sum = 0;
  for (int i = threadIdx.x; i < tiles; i += BLOCK) sum += partial[(long long)blockIdx.x * tiles + i];
  for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(FULL, sum, d);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  for (int w = 1; w < BLOCK / 32; w++) sum += sums[w];
  losses[*step * gridDim.x + blockIdx.x] = sum * factor;
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
// image_grad: [G, H, W] fp16 x 4 (HALF) or [G, H, W, 3] float. Outputs are multiplied by factor, and by scale [G] if
// not null.
template <bool HALF, int WARPS>
__device__ __forceinline__ void gather(
    int i, int g, short4 box, const float4* __restrict__ shape, const float4* __restrict__ paint,
    const float* __restrict__ cholesky, const void* __restrict__ image_grad, const float* __restrict__ scale,
    float factor, float* __restrict__ d_mu, float* __restrict__ d_cholesky, float* __restrict__ d_rgb,
    int n, int width, int height, float offset) {
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  long long o = (long long)g * n + i;
  float4 s = shape[o], p = paint[o];
  const uint2* half4 = (const uint2*)image_grad + (long long)g * height * width;
  const float* float3s = (const float*)image_grad + 3LL * g * height * width;
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
      } else if (HALF) {
        uint2 raw = half4[y * width + x];
        float2 a = unpack(raw.x), b = unpack(raw.y);
        dr = a.x, dg = a.y, db = b.x;
      } else {
        const float* q = float3s + 3LL * (y * width + x);
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
  total *= (scale ? scale[g] * factor : factor);
  // dsigma/dmu and dsigma/dL in whitened moments; z carries U once, so first moments U^2 and second moments U^3.
  s1 = __shfl_sync(FULL, total, 3), s2 = __shfl_sync(FULL, total, 4);
  s11 = __shfl_sync(FULL, total, 5), s12 = __shfl_sync(FULL, total, 6), s22 = __shfl_sync(FULL, total, 7);
  const float u2 = 1.f / (U * U), u3 = u2 / U;
  if (lane < 3) {
    d_rgb[3 * o + lane] = total;
    float d = lane == 0 ? s11 * s.z - s12 * p.x : (lane == 1 ? s12 : s22) * s.w;
    if (lane != 1 && cholesky[3 * o + lane] + offset < MIN_SCALE) d = 0.f;
    d_cholesky[3 * o + lane] = d * u3;
    if (lane < 2) d_mu[2 * o + lane] = u2 * (lane ? s2 * s.w : s1 * s.z - s2 * p.x);
  }
}

#define GIVEN \
  shape, paint, cholesky, image_grad, scale, factor, d_mu, d_cholesky, d_rgb, n, width, height, offset

// A kernel for an image gradient of PIXELs, three floats or a uint2 of fp16: for small Gaussians, a warp each (WARPS
// is 1), or for the wide ones, a block each (GATHER_WARPS).
#define BACKWARD(NAME, PIXEL, WARPS)                                                                                   \
  extern "C" __global__ void __launch_bounds__(32 * GATHER_WARPS, 4) NAME(                                             \
      const float4* shape, const float4* paint, const short4* boxes, const float* cholesky, const PIXEL* image_grad,   \
      const float* NULLABLE scale, float factor, float* d_mu, float* d_cholesky, float* d_rgb, const int* wide,        \
      const int* wide_counts, int n, int width, int height, float offset) {                                            \
    int g = blockIdx.y;                                                                                                \
    if (WARPS == 1) {                                                                                                  \
      int i = blockIdx.x * GATHER_WARPS + (threadIdx.x >> 5);                                                          \
      if (i >= n) return;                                                                                              \
      short4 box = boxes[(long long)g * n + i];                                                                        \
      if (!is_wide(box)) gather<sizeof(PIXEL) == 8, 1>(i, g, box, GIVEN);                                              \
    } else {                                                                                                           \
      for (int j = blockIdx.x; j < wide_counts[g]; j += gridDim.x) {                                                   \
        int i = wide[(long long)g * n + j];                                                                            \
        gather<sizeof(PIXEL) == 8, GATHER_WARPS>(i, g, boxes[(long long)g * n + i], GIVEN);                            \
      }                                                                                                                \
    }                                                                                                                  \
  }

BACKWARD(splat_backward, float, 1)
BACKWARD(splat_backward_wide, float, GATHER_WARPS)
BACKWARD(splat_mse_backward, uint2, 1)
BACKWARD(splat_mse_backward_wide, uint2, GATHER_WARPS)
