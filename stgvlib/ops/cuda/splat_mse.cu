// A training step's render: the sum of Gaussians (splat.cu) compared with a frame, and the gradients of that loss, in
// one pass over the tiles' lists and on tensor cores.
//
// splat_mse    one block a 16x16 tile, one warp an 8x8 quadrant, sixteen Gaussians (a group) at a time. Weights are
//              computed once, as fp16 [16 Gaussians][64 pixels] in shared memory, and multiplied twice:
//                picture    [pixels][Gaussians] x [Gaussians][colours];
//                moments    [Gaussians][pixels] x [pixels][residual times 1, x, y, x^2, xy, y^2], for each channel.
//              Colours and residual products are sums of two fp16 numbers, high and low; x and y are those of the
//              quadrant, -3.5 to 3.5. A group's moments in x and y become those of z, which is linear in them, and are
//              added to `moments` [G, N, 8] by atomics: the last bits of gradients differ from run to run.
//              A column of four weights takes two exponentials, since w(y + 1) / w(y) is a geometric sequence; about 6
//              instructions a weight, those of pixels outside the ellipse too.
//              Groups beyond KEPT, and those of a list of more than THREADS, are weighed again for their moments.
//              A needle's moments of z2 cancel: for (l1, l2, l3) of 0.3, 10, 0.3 px the gradient of l3 may be off by
//              2 %, for 0.3, 100, 0.3 px it is of no use; those of l1, l2 and the place by 0.1 and 1 %.
// splat_mse_gradients   moments -> gradients, a thread a Gaussian; leaves zeros in `moments` for the next step.
// mse_loss     adds up the tiles' losses.

#define GROUP 16
#define RAISED 8.f  // log2 of what weights are multiplied by here, or the first of a column could be too small for fp32

// Of both halves: v where v >= least, else 0.
__device__ __forceinline__ unsigned cut(unsigned v, unsigned least) {
  unsigned one;
  asm("set.ge.f16x2.f16x2 %0, %1, %2;" : "=r"(one) : "r"(v), "r"(least));
  asm("mul.f16x2 %0, %0, %1;" : "+r"(v) : "r"(one));
  return v;
}

__device__ __forceinline__ unsigned product(unsigned a, unsigned b) {
  unsigned c;
  asm("mul.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}

// a b - c, rounded once
__device__ __forceinline__ unsigned remainder(unsigned a, unsigned b, unsigned c) {
  unsigned left;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(left) : "r"(a), "r"(b), "r"(c ^ 0x80008000u));
  return left;
}

// Of Gaussians in reach of a tile, in its coordinates: z1 = line.x x + line.y, z2 = line.z y + slope.x x + line.w.
struct Listed {
  float4 line[THREADS + 1], slope[THREADS + 1];  // slope: -k, r, g, b. The last one reaches no pixel.
  uint4 colour[THREADS + 1];                     // fp16: r high, r low, g high, ..., 0, 0
  int index[THREADS];                            // of N
  unsigned char quadrants[THREADS];              // bits: which ones it reaches
  unsigned char chosen[THREADS / 32][THREADS + GROUP];  // of a warp's quadrant, filled up with THREADS
};

// Weights of a group in an 8x8 quadrant whose first pixel centre is (x, y): to `at`, fp16 [16][64], where pixel row j
// of Gaussian i lies in 16 bytes number j ^ (i & 7), so that no two of them that are read together share a bank.
__device__ __forceinline__ void weigh(float4 line, float4 slope, float x, float y, unsigned least, uint4* at,
                                      int lane) {
  int i = lane & 15, half = lane >> 4;
  y += 4 * half;
  float z1 = fmaf(line.x, x, line.y), z2 = fmaf(line.z, y, fmaf(slope.x, x, line.w));
  float twice = -2.f * line.z, square = line.z * line.z, q = exp2_fast(-2.f * square);
  unsigned rows[4][4];
#pragma unroll
  for (int pair = 0; pair < 4; pair++) {
    float w[2][4];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      w[j][0] = exp2_fast(fmaf(-z2, z2, fmaf(-z1, z1, RAISED)));
      // Where the ratio would be beyond 2^126 the first weight is 0, and so must be the others: not NaN.
      float ratio = exp2_fast(fminf(fmaf(twice, z2, -square), 126.f));
      w[j][1] = w[j][0] * ratio; ratio *= q;
      w[j][2] = w[j][1] * ratio; ratio *= q;
      w[j][3] = w[j][2] * ratio;
      z1 += line.x; z2 += slope.x;
    }
#pragma unroll
    for (int row = 0; row < 4; row++) rows[row][pair] = cut(pack(w[0][row], w[1][row]), least);
  }
#pragma unroll
  for (int row = 0; row < 4; row++)
    at[8 * i + ((4 * half + row) ^ (i & 7))] = make_uint4(rows[row][0], rows[row][1], rows[row][2], rows[row][3]);
}

// frames [G, T, H, W] uchar4 (alpha: loss weight), frame_index [G]; loss [G, tiles]: squares, beyond `huber` linear;
// with `clamp` of the picture clamped to [0, 1], outside of which there is no gradient. moments [G, N, 8]: of the
// residual, summed with the weights, r, g, b; summed with weight times colour, z1, z2, z1^2, z1 z2, z2^2
extern "C" __global__ void __launch_bounds__(THREADS, 5) splat_mse(
    const float4* __restrict__ shape, const float4* __restrict__ paint, const short4* __restrict__ boxes,
    const int* __restrict__ counts, const int* __restrict__ lists, const uchar4* __restrict__ frames,
    const int* __restrict__ frame_index, float* __restrict__ moments, float* __restrict__ loss, int n, int width,
    int height, int tiles_x, int tiles_y, int capacity, int num_frames, float huber, int clamp) {
  __shared__ Listed listed;
  __shared__ __align__(128) uint4 weights[THREADS / 32][KEPT][GROUP * 8];
  __shared__ __align__(16) unsigned short residual[THREADS / 32][3][64];  // fp16
  int g = blockIdx.z, tile = (g * tiles_y + blockIdx.y) * tiles_x + blockIdx.x;
  int left = blockIdx.x * TILE, top = blockIdx.y * TILE;
  int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, r = lane >> 2, c = lane & 3;
  int qx = 8 * (warp & 1), qy = 8 * (warp >> 1);  // the quadrant's corner in the tile
  unsigned least = pack(exp2_fast(RAISED - CUT), exp2_fast(RAISED - CUT));
  if (tid == 0) {
    listed.line[THREADS] = make_float4(0.f, 1e3f, 0.f, 0.f);
    listed.slope[THREADS] = make_float4(0.f, 0.f, 0.f, 0.f);
    listed.colour[THREADS] = make_uint4(0, 0, 0, 0);
  }
  // Where a lane points for the fragments of pixel rows 0 and 1: 32 j bytes further, but for the bits of the order that
  // `weigh` stores, lie those of rows 2 j and 2 j + 1.
  unsigned of_warp = address(weights[warp]);
  unsigned of_picture = of_warp + 128 * ((lane & 7) + 8 * (lane >> 4 & 1)) + 16 * ((lane >> 3 & 1) ^ (lane & 7));
  unsigned of_moments = of_warp + 128 * ((lane & 7) + 8 * (lane >> 3 & 1)) + 16 * ((lane >> 4 & 1) ^ (lane & 7));
  // This lane's pixels: column r of the quadrant. Their colours are fetched before they are needed.
  unsigned targets[8];
  int px = left + qx + r, rows = px < width ? height - top - qy : 0;
  const unsigned* frame = (const unsigned*)frames + ((ll)g * num_frames + frame_index[g]) * height * width +
                          (top + qy) * width + px;
#pragma unroll
  for (int row = 0; row < 8; row++, frame += width) targets[row] = row < rows ? *frame : 0;
  int next = tid < capacity ? lists[(ll)tile * capacity + tid] : 0;  // before it is known whether there is one
  int count = counts[tile];
  bool whole = count > capacity;
  if (whole) count = n;
  // Lists THREADS of the tile's Gaussians, from number `base` on, and says how many of them reach this warp's quadrant.
  auto choose = [&](int base) {
    int m = min(THREADS, count - base), have = 0;
    __syncthreads();
    if (tid < m) {
      int i = whole ? base + tid : base ? lists[(ll)tile * capacity + base + tid] : next;
      ll o = (ll)g * n + i;
      short4 box = boxes[o];
      float4 s = shape[o], p = paint[o];
      float dx = s.x - left, dy = s.y - top;
      listed.index[tid] = i;
      listed.quadrants[tid] = quadrants(s, p.x, dx, dy, box.y - top, box.w - top);
      listed.line[tid] = make_float4(s.z, -s.z * dx, s.w, p.x * dx - s.w * dy);
      listed.slope[tid] = make_float4(-p.x, p.y, p.z, p.w);
      float high[3] = {unpack(pack(p.y, 0.f)).x, unpack(pack(p.z, 0.f)).x, unpack(pack(p.w, 0.f)).x};
      listed.colour[tid] = make_uint4(pack(high[0], p.y - high[0]), pack(high[1], p.z - high[1]),
                                      pack(high[2], p.w - high[2]), 0);
    }
    __syncthreads();
    for (int j0 = 0; j0 < m; j0 += 32) {
      bool hit = j0 + lane < m && (listed.quadrants[j0 + lane] >> warp & 1);
      unsigned hits = __ballot_sync(FULL, hit);
      if (hit) listed.chosen[warp][have + __popc(hits & ((1u << lane) - 1))] = j0 + lane;
      have += __popc(hits);
    }
    if (lane < GROUP) listed.chosen[warp][have + lane] = THREADS;
    __syncwarp();
    return have;
  };
  auto weigh_group = [&](int first, int slot) {
    int i = listed.chosen[warp][first + (lane & 15)];
    __syncwarp();
    weigh(listed.line[i], listed.slope[i], qx + 0.5f, qy + 0.5f, least, weights[warp][slot], lane);
    __syncwarp();
  };

  float picture[4][4] = {};  // [two rows of pixels][fragment]: channel c, high and low, of column r
  int have = 0;
  for (int base = 0; base < count; base += THREADS) {
    have = choose(base);
    for (int first = 0; first < have; first += GROUP) {
      int slot = min(first / GROUP, KEPT - 1);
      weigh_group(first, slot);
      unsigned a[4], b[2];
      load2t(b, address(listed.colour + listed.chosen[warp][first + (lane & 15)]));
#pragma unroll
      for (int j = 0; j < 4; j++) {
        load4t(a, of_picture + 2048 * slot ^ 32 * j);
        mma(picture[j], a, b[0], b[1]);
      }
    }
  }

  unsigned outside = 0;  // of [0, 1], bit by row
#pragma unroll
  for (int row = 0; row < 8; row++) {
    float* p = picture[row >> 1] + 2 * (row & 1);
    p[0] = (p[0] + p[1]) * exp2f(-RAISED);
    if (!clamp) continue;
    float shown = p[0] > 1.f ? 1.f : p[0] < 0.f ? 0.f : p[0];  // NaN stays NaN, for the loss to show it
    outside |= (p[0] != shown) << row;
    p[0] = shown;
  }
  float sum = 0;
#pragma unroll
  for (int row = 0; row < 8; row++) {
    float d = fmaf(targets[row] >> 8 * c & 255, -1 / 255.f, picture[row >> 1][2 * (row & 1)]);
    float h = fminf(fmaxf(d, -huber), huber), weight = (targets[row] >> 24) * (1 / 255.f);
    sum = fmaf(weight, h * (2 * d - h), sum);
    h = fminf(fmaxf(weight * h, -5000.f), 5000.f);  // times x^2 it has to be within fp16's range
    if (c < 3) residual[warp][c][8 * row + r] = pack(outside >> row & 1 ? 0.f : h, 0.f);
  }
  if (c == 3) sum = 0;
  for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(FULL, sum, d);
  __shared__ float parts[THREADS / 32];
  if (lane == 0) parts[warp] = sum;
  __syncthreads();
  if (tid == 0) loss[tile] = parts[0] + parts[1] + parts[2] + parts[3];

  // Fragments of the residual times 1, x, y, x^2, xy, y^2, xy, y^2 (column r), as the sum of two fp16 numbers: what one
  // alone rounds off would be an error of some per mille in the gradients of thin Gaussians.
  unsigned right[3][4][2], rest[3][4][2];
  int of_x = 0x01012010 >> 4 * r & 3, of_y = 0x21210100 >> 4 * r & 3;
  float x = 2 * c - 3.5f;
  unsigned in_x = of_x == 0 ? pack(1.f, 1.f) : of_x == 1 ? pack(x, x + 1) : pack(x * x, (x + 1) * (x + 1));
#pragma unroll
  for (int row = 0; row < 8; row++) {
    float y = row - 3.5f, in_y = of_y == 0 ? 1.f : of_y == 1 ? y : y * y;
    unsigned factor = product(in_x, pack(in_y, in_y));
#pragma unroll
    for (int k = 0; k < 3; k++) {
      unsigned of = *(const unsigned*)(residual[warp][k] + 8 * row + 2 * c), high = product(factor, of);
      right[k][row >> 1][row & 1] = high;
      rest[k][row >> 1][row & 1] = remainder(factor, of, high);
    }
  }
  for (int base = 0; base < count; base += THREADS) {
    if (count > THREADS) have = choose(base);
    for (int first = 0; first < have; first += GROUP) {
      int slot = min(first / GROUP, KEPT - 1);
      if (count > THREADS || have > KEPT * GROUP && first >= (KEPT - 1) * GROUP) weigh_group(first, slot);
      float sums[3][4] = {};
      unsigned a[4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        load4(a, of_moments + 2048 * slot ^ 32 * j);
#pragma unroll
        for (int k = 0; k < 3; k++) {
          mma(sums[k], a, right[k][j][0], right[k][j][1]);
          mma(sums[k], a, rest[k][j][0], rest[k][j][1]);
        }
      }
      // Lane c holds of Gaussians r and r + 8: summed with 1 and x, y and x^2, or (twice) xy and y^2.
      const unsigned char* chosen = listed.chosen[warp] + first;
      float4 upper = listed.slope[chosen[r]], lower = listed.slope[chosen[r + 8]];
      float m[2][2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        m[0][j] = upper.y * sums[0][j] + upper.z * sums[1][j] + upper.w * sums[2][j];
        m[1][j] = lower.y * sums[0][2 + j] + lower.z * sums[1][2 + j] + lower.w * sums[2][2 + j];
      }
      // To lane 0 all of Gaussian r, to lane 1 all of r + 8.
      bool second = c & 1;
      float red = __shfl_xor_sync(FULL, sums[0][2], 1), green = __shfl_xor_sync(FULL, sums[1][2], 1);
      float blue = __shfl_xor_sync(FULL, sums[2][2], 1);
      float one = __shfl_xor_sync(FULL, m[!second][0], 1), two = __shfl_xor_sync(FULL, m[!second][1], 1);
      float xy = __shfl_xor_sync(FULL, m[second][0], 2), yy = __shfl_xor_sync(FULL, m[second][1], 2);
      int i = chosen[r + 8 * second];
      if (c < 2 && i < THREADS) {
        float m0 = second ? one : m[0][0], mx = second ? two : m[0][1];
        float my = second ? m[1][0] : one, xx = second ? m[1][1] : two;
        if (!second) red = sums[0][0], green = sums[1][0], blue = sums[2][0];
        float4 line = listed.line[i];
        float slope = listed.slope[i].x;
        float z1 = fmaf(line.x, qx + 4.f, line.y), z2 = fmaf(line.z, qy + 4.f, fmaf(slope, qx + 4.f, line.w));
        // Of z1 + line.x x and z2 + line.z y + slope x, and of their products.
        float linear = fmaf(line.z, my, slope * mx), mixed = fmaf(line.z, xy, slope * xx);
        float s1 = fmaf(z1, m0, line.x * mx), s2 = fmaf(z2, m0, linear);
        float s11 = fmaf(z1, s1, line.x * fmaf(z1, mx, line.x * xx));
        float s12 = fmaf(z1, s2, line.x * fmaf(z2, mx, mixed));
        float s22 = fmaf(z2, s2 + linear, line.z * fmaf(line.z, yy, slope * xy) + slope * mixed);
        float* to = moments + 8 * ((ll)g * n + listed.index[i]);
        add4(to, red, green, blue, s1);
        add4(to + 4, s2, s11, s12, s22);
      }
    }
  }
}

// moments [G, N, 8] -> gradients times `factor`, and scale [G] if not null; l1 and l3 are raised by `offset`.
extern "C" __global__ void __launch_bounds__(BLOCK) splat_mse_gradients(
    float4* __restrict__ moments, const float4* __restrict__ shape, const float4* __restrict__ paint,
    const float* __restrict__ cholesky, const float* __restrict__ NULLABLE scale, float factor,
    float* __restrict__ d_mu, float* __restrict__ d_cholesky, float* __restrict__ d_rgb, int n, float offset) {
  int i = blockIdx.x * BLOCK + threadIdx.x, g = blockIdx.y;
  if (i >= n) return;
  ll o = (ll)g * n + i;
  float4 first = moments[2 * o], second = moments[2 * o + 1], s = shape[o];
  moments[2 * o] = moments[2 * o + 1] = make_float4(0.f, 0.f, 0.f, 0.f);
  float k = paint[o].x;
  factor *= exp2f(-RAISED) * (scale ? scale[g] : 1.f);
  d_rgb[3 * o] = factor * first.x;
  d_rgb[3 * o + 1] = factor * first.y;
  d_rgb[3 * o + 2] = factor * first.z;
  for (int j = 0; j < 2; j++) d_mu[2 * o + j] = factor * d_centre(j, s, k, first.w, second.x);
  for (int j = 0; j < 3; j++) {
    bool floor = j != 1 && cholesky[3 * o + j] + offset < MIN_SCALE;
    d_cholesky[3 * o + j] = floor ? 0.f : factor * d_scale(j, s, k, second.y, second.z, second.w);
  }
}

// partial [G, tiles] -> losses [step, G], each times factor
extern "C" __global__ void __launch_bounds__(BLOCK) mse_loss(
    const float* __restrict__ partial, const ll* __restrict__ step, float* __restrict__ losses, int tiles,
    float factor) {
  __shared__ float sums[BLOCK / 32];
  float sum = 0;
  for (int i = threadIdx.x; i < tiles; i += BLOCK) sum += partial[(ll)blockIdx.x * tiles + i];
  for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(FULL, sum, d);
  if ((threadIdx.x & 31) == 0) sums[threadIdx.x >> 5] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  for (int w = 1; w < BLOCK / 32; w++) sum += sums[w];
  losses[*step * gridDim.x + blockIdx.x] = sum * factor;
}
