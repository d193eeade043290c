// The field's MLP, backward: from gradients of deformed Gaussians to those of features and weights.
//
// mlp_backward  one block takes 128 rows at a time: activations again (cheaper than reading them), back to the
//               features, and the products that are the weights' gradients, whose sums stay in registers until the
//               block is done.
// mlp_reduce    adds up the blocks' sums: no atomics, so the weights' gradients are deterministic.
// Gradients are multiplied by `scale` on the way in and divided by it on the way out, for fp16's range.
// A row of 128 units: 150 k operations, 160 bytes in, 128 out.

// Offsets into a block's sums, in floats
#define SUM_W1 0
#define SUM_B1 (K1 * HIDDEN)
#define SUM_W2 (SUM_B1 + HIDDEN)
#define SUM_B2 (SUM_W2 + HIDDEN * HIDDEN)
#define SUM_WH (SUM_B2 + HIDDEN)
#define SUM_BH (SUM_WH + HIDDEN * OUT)
static_assert(SUM_BH + OUT == SUMS, "the launch makes room for as many");
static_assert(ROWS == THREADS / 2 && ROWS % STAGE == 0, "a warp takes 16 rows");
static_assert(THREADS == 256, "eight warps share the products");

constexpr int EIGHTH = HIDDEN / 8, QUARTER = HIDDEN / 4;  // of a layer's columns
constexpr int GROUPS = THREADS / PAIRS;                   // of threads that add up columns

// Bits 15 and 31: which of two activations are positive. Leaky ones tell by their sign, others are never below zero.
__device__ __forceinline__ unsigned positive(unsigned activations) {
  if (SLOPE > 0.f) return ~activations & 0x80008000u;
  return (activations + 0x7fff7fffu) & 0x80008000u;
}

// Two gradients as fp16, kept where `gate` has bits 15 and 31, else times the slope.
__device__ __forceinline__ unsigned gated(float a, float b, unsigned gate) {
  if (SLOPE > 0.f) return pack_clamped(gate & 0x8000u ? a : SLOPE * a, gate & 0x80000000u ? b : SLOPE * b);
  return pack_clamped(a, b) & (gate >> 15 & 0x10001u) * 0xffffu;
}

// Write A fragments h [TILES][4] of rows r, r + 8 as rows of a matrix in shared memory.
__device__ __forceinline__ void store_rows(half_t* matrix, const unsigned (&h)[TILES][4], int r, int c) {
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      *(unsigned*)(matrix + (r + 8 * (i & 1)) * PITCH + 16 * j + 8 * (i >> 1) + 2 * c) = h[j][i];
}

// Add a column pair over a group's part of the staged rows to this thread's sum, which lies in shared memory.
__device__ __forceinline__ void add_columns(float2* sums, const half_t* matrix) {
  const unsigned* p = (const unsigned*)matrix + threadIdx.x / PAIRS * (STAGE / GROUPS) * (PITCH / 2) +
                      threadIdx.x % PAIRS;
  float2 sum = sums[threadIdx.x];
#pragma unroll 4
  for (int i = 0; i < STAGE / GROUPS; i++) {
    float2 v = unpack(p[i * (PITCH / 2)]);
    sum.x += v.x;
    sum.y += v.y;
  }
  sums[threadIdx.x] = sum;
}

// A warp's place in a block, and where things are in shared memory.
struct Block {
  int lane, warp, r, c, part, place;  // rows place, place + 8 of stage `part` are this lane's
  half_t *left, *right, *grads;       // factors of the products, a stage at a time
  float2* columns;                    // sums of the biases, THREADS each: of two layers and the heads
  float4* sum_heads;                  // this lane's sums of the heads' weights
  unsigned left_at, right_at, grads_at;
};

// Gradients of the outputs of rows `row`, `row` + 8, times scale, 0 from row n on; adds them to those of the biases.
__device__ __forceinline__ void load_gradients(
    unsigned (&out)[2], const Block& b, const float* grad_mu, const float* grad_cholesky, const float* grad_rgb, int n,
    int g, int row, float scale_x, float scale_y, float scale_shape, float scale) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float u = 0.f, v = 0.f;
    if (row + 8 * half < n) {
      unsigned o = g * n + row + 8 * half;
      if (b.c == 0) {
        u = grad_mu[2 * o] * scale_x;
        v = grad_mu[2 * o + 1] * scale_y;
      } else if (b.c == 1) {
        u = grad_rgb[3 * o];
        v = grad_rgb[3 * o + 1];
      } else {
        if (b.c == 2) u = grad_rgb[3 * o + 2];
        if (grad_cholesky) {
          if (b.c == 3) u = grad_cholesky[3 * o + 1] * scale_shape;
          v = grad_cholesky[3 * o + (b.c == 2 ? 0 : 2)] * scale_shape;
        }
      }
    }
    out[half] = pack_clamped(u * scale, v * scale);
    float2 rounded = unpack(out[half]), sum = b.columns[2 * THREADS + threadIdx.x];
    b.columns[2 * THREADS + threadIdx.x] = make_float2(sum.x + rounded.x, sum.y + rounded.y);
  }
}

// The heads' weights: right^T grads, 16 rows of it a warp, for which 64 units need half of the warps.
__device__ __forceinline__ void add_heads(const Block& b, const unsigned (&h2)[TILES][4], const unsigned (&out)[2]) {
  for (int s = 0; s < ROWS / STAGE; s++) {
    if (s == b.part) {
      store_rows(b.right, h2, b.place, b.c);
      ((unsigned*)b.grads)[b.place * 4 + b.c] = out[0];
      ((unsigned*)b.grads)[(b.place + 8) * 4 + b.c] = out[1];
    }
    __syncthreads();
    if (TILES == THREADS / 32 || b.warp < TILES) {
      float4 before = *b.sum_heads;
      float acc[4] = {before.x, before.y, before.z, before.w};
#pragma unroll 1
      for (int k = 0; k < STAGE / 16; k++) {
        unsigned u[4], v[2];
        load4t(u, b.right_at + 32 * k * PITCH + 32 * b.warp + back(b.lane));
        load2t(v, b.grads_at + 32 * k * OUT);
        mma(acc, u, v[0], v[1]);
      }
      *b.sum_heads = make_float4(acc[0], acc[1], acc[2], acc[3]);
    }
    __syncthreads();
  }
}

// Second layer's weights: left^T right, a quarter of its rows and half of its columns a warp.
__device__ __forceinline__ void add_second(float (&sum2)[QUARTER / 16][TILES][4], const Block& b,
                                           const unsigned (&h1)[TILES][4], const unsigned (&h2)[TILES][4]) {
  for (int s = 0; s < ROWS / STAGE; s++) {
    if (s == b.part) {
      store_rows(b.left, h1, b.place, b.c);
      store_rows(b.right, h2, b.place, b.c);
    }
    __syncthreads();
    add_columns(b.columns + THREADS, b.right);
#pragma unroll 1
    for (int k = 0; k < STAGE / 16; k++) {
      unsigned u[QUARTER / 16][4];
#pragma unroll
      for (int m = 0; m < QUARTER / 16; m++)
        load4t(u[m], b.left_at + 32 * k * PITCH + (b.warp >> 1) * (2 * QUARTER) + 32 * m + back(b.lane));
#pragma unroll
      for (int q = 0; q < TILES / 2; q++) {
        unsigned v[4];
        load4t(v, b.right_at + 32 * k * PITCH + (b.warp & 1) * HIDDEN + 32 * q + front(b.lane));
#pragma unroll
        for (int m = 0; m < QUARTER / 16; m++) {
          mma(sum2[m][2 * q], u[m], v[0], v[1]);
          mma(sum2[m][2 * q + 1], u[m], v[2], v[3]);
        }
      }
    }
    __syncthreads();
  }
}

// First layer's weights: left^T right, an eighth of its columns a warp.
__device__ __forceinline__ void add_first(float (&sum1)[3][EIGHTH / 8][4], const Block& b) {
  add_columns(b.columns, b.right);
#pragma unroll 1
  for (int k = 0; k < STAGE / 16; k++) {
    unsigned v[4];
    if (EIGHTH == 16) load4t(v, b.right_at + 32 * k * PITCH + 32 * b.warp + front(b.lane));
    else load2t(v, b.right_at + 32 * k * PITCH + 16 * b.warp + front(b.lane & 15));
#pragma unroll
    for (int m = 0; m < 3; m++) {
      unsigned u[4];
      load4t(u, b.left_at + 32 * k * PITCH + 32 * m + back(b.lane));
#pragma unroll
      for (int j = 0; j < EIGHTH / 8; j++) mma(sum1[m][j], u, v[2 * j], v[2 * j + 1]);
    }
  }
}

// Back through the heads: h2 becomes its gradient.
__device__ __forceinline__ void back_heads(unsigned (&h2)[TILES][4], const unsigned (&out)[2], unsigned heads_at) {
#pragma unroll
  for (int j = 0; j < EIGHTH; j += 4) {
    unsigned b[4];
    load4(b, heads_at + 16 * j * OUT);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float acc[4] = {};
      mma8(acc, out[0], out[1], b[i]);
      unsigned* h = &h2[(j + i) / 2][2 * (i & 1)];
      h[0] = gated(acc[0], acc[1], positive(h[0]));
      h[1] = gated(acc[2], acc[3], positive(h[1]));
    }
  }
}

// Back through a layer: to(j, i, low, high) gets pair i of the j-th 16 columns of grad W^T.
template <int J, class To>
__device__ __forceinline__ void back_layer(const unsigned (&grad)[TILES][4], unsigned w_at, int lane, To to) {
#pragma unroll
  for (int j = 0; j < J; j++) {
    float acc[2][4] = {};
#pragma unroll
    for (int k = 0; k < TILES; k++) {
      unsigned b[4];
      load4(b, w_at + 32 * j * PITCH + 32 * k + back(lane));
      mma(acc[0], grad[k], b[0], b[1]);
      mma(acc[1], grad[k], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) to(j, i, acc[i >> 1][2 * (i & 1)], acc[i >> 1][2 * (i & 1) + 1]);
  }
}

// Write a block's sums [SUMS].
__device__ __forceinline__ void write_sums(float* sums, const Block& b, const float (&sum1)[3][EIGHTH / 8][4],
                                           const float (&sum2)[QUARTER / 16][TILES][4]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int u = 2 * half, v = u + 1, r = b.r + 8 * half, c = 2 * b.c;
#pragma unroll
    for (int m = 0; m < 3; m++)
#pragma unroll
      for (int j = 0; j < EIGHTH / 8; j++)
        *(float2*)(sums + SUM_W1 + (16 * m + r) * HIDDEN + EIGHTH * b.warp + 8 * j + c) =
            make_float2(sum1[m][j][u], sum1[m][j][v]);
#pragma unroll
    for (int m = 0; m < QUARTER / 16; m++)
#pragma unroll
      for (int j = 0; j < TILES; j++)
        *(float2*)(sums + SUM_W2 + ((b.warp >> 1) * QUARTER + 16 * m + r) * HIDDEN + (b.warp & 1) * PAIRS + 8 * j + c) =
            make_float2(sum2[m][j][u], sum2[m][j][v]);
    if (TILES == THREADS / 32 || b.warp < TILES) *(float2*)(sums + SUM_WH + (16 * b.warp + r) * OUT + c) =
        half ? make_float2(b.sum_heads->z, b.sum_heads->w) : make_float2(b.sum_heads->x, b.sum_heads->y);
  }
  __syncthreads();
  int which = threadIdx.x / PAIRS, pair = threadIdx.x % PAIRS;  // 0, 1: hidden layers, 2: heads
  if (which == 2 ? pair < 4 : which < 2) {
    float2 total = make_float2(0.f, 0.f);
    for (int i = pair; i < THREADS; i += which == 2 ? 4 : PAIRS) {
      total.x += b.columns[which * THREADS + i].x;
      total.y += b.columns[which * THREADS + i].y;
    }
    *(float2*)(sums + (which == 0 ? SUM_B1 : which == 1 ? SUM_B2 : SUM_BH) + 2 * pair) = total;
  }
}

// Gradients of the deformed Gaussians [G, n, .] (grad_cholesky null where the shape is not deformed) -> gradients of
// the features dx [G, 8, rows, 8] fp16 times scale, and sums [G, gridDim.x, SUMS] times scale. rows % 128 == 0; padding
// rows of x must be finite.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) mlp_backward(
    const uint4* __restrict__ x, const float* __restrict__ w1, const float* __restrict__ w2,
    const float* __restrict__ wp, const float* __restrict__ wc, const float* __restrict__ NULLABLE ws,
    const float* __restrict__ bias, const float* __restrict__ b2, const float* __restrict__ bp,
    const float* __restrict__ bc, const float* __restrict__ NULLABLE bs, const int* __restrict__ row_of,
    const float* __restrict__ grad_mu, const float* __restrict__ NULLABLE grad_cholesky,
    const float* __restrict__ grad_rgb, uint4* __restrict__ dx, float* __restrict__ sums, int n, int rows, int inputs,
    float scale_x, float scale_y, float scale_shape, float scale) {
  extern __shared__ uint4 shared[];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = blockIdx.y, r = lane >> 2, c = lane & 3;
  Weights w = carve((half_t*)shared);
  load_weights(w, w1, w2, wp, wc, ws, bias, b2, bp, bc, bs, row_of, inputs, g, g);
  half_t *left = (half_t*)(w.bh + OUT), *right = left + STAGE * PITCH, *grads = right + STAGE * PITCH;
  float2* columns = (float2*)(grads + STAGE * OUT);
  float4* sum_heads = (float4*)(columns + 3 * THREADS) + threadIdx.x;
  for (int i = 0; i < 3; i++) columns[i * THREADS + threadIdx.x] = make_float2(0.f, 0.f);
  *sum_heads = make_float4(0.f, 0.f, 0.f, 0.f);
  // Addresses as one register and constants.
  const unsigned w1_at = address(shared), w2_at = w1_at + 2 * K1 * PITCH, heads_all = w2_at + 2 * HIDDEN * PITCH;
  const unsigned left_at = heads_all + 2 * HIDDEN * OUT + 4 * (2 * HIDDEN + OUT);
  const unsigned right_at = left_at + 2 * STAGE * PITCH;
  const unsigned grads_at = right_at + 2 * STAGE * PITCH + 2 * (lane & 15) * OUT;
  const Block b = {lane, warp, r, c, warp * 16 / STAGE, warp * 16 % STAGE + r, left, right, grads, columns, sum_heads,
                   left_at, right_at, grads_at};
  float sum1[3][EIGHTH / 8][4] = {}, sum2[QUARTER / 16][TILES][4] = {};
  x += (ll)g * 8 * rows;
  dx += (ll)g * 8 * rows;
  __syncthreads();
  for (int first = blockIdx.x * ROWS; first < n; first += gridDim.x * ROWS) {
    int row = first + warp * 16 + r;
    unsigned h1[1][TILES][4], h2[1][TILES][4], out[2];
    {
      unsigned a[1][3][4];
      load_features(a[0], x, rows, row, c);
      layer<1, 3>(a, h1, w1_at, w.b1, lane);
    }
    layer<1, TILES>(h1, h2, w2_at, w.b2, lane);
    load_gradients(out, b, grad_mu, grad_cholesky, grad_rgb, n, g, row, scale_x, scale_y, scale_shape, scale);
    add_heads(b, h2[0], out);
    back_heads(h2[0], out, heads_all + 2 * lane * OUT);
    unsigned gates[TILES / 4] = {};  // of h1, which the next products leave no registers for
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) gates[j >> 2] |= positive(h1[0][j][i]) >> (4 * (j & 3) + i);
    add_second(sum2, b, h1[0], h2[0]);
    back_layer<TILES>(h2[0], w2_at, lane, [&](int j, int i, float low, float high) {
      h1[0][j][i] = gated(low, high, gates[j >> 2] << (4 * (j & 3) + i));
    });
    unsigned d[6][2];  // the features' gradient
    back_layer<3>(h1[0], w1_at, lane, [&](int j, int i, float low, float high) {
      d[2 * j + (i >> 1)][i & 1] = pack_clamped(low, high);
    });
#pragma unroll
    for (int half = 0; half < 2; half++) {
      dx[c * rows + row + 8 * half] = make_uint4(d[0][half], d[2][half], d[3][half], 0);
      dx[(c + 4) * rows + row + 8 * half] = make_uint4(d[1][half], d[4][half], d[5][half], 0);
    }
    for (int s = 0; s < ROWS / STAGE; s++) {
      if (s == b.part) {
        unsigned a[3][4];
        load_features(a, x, rows, row, c);
#pragma unroll
        for (int j = 0; j < 3; j++)  // store_rows here spills more registers on sm_75
#pragma unroll
          for (int i = 0; i < 4; i++)
            *(unsigned*)(left + (b.place + 8 * (i & 1)) * PITCH + 16 * j + 8 * (i >> 1) + 2 * c) = a[j][i];
        store_rows(right, h1[0], b.place, c);
      }
      __syncthreads();
      add_first(sum1, b);
      __syncthreads();
    }
  }
  write_sums(sums + ((ll)g * gridDim.x + blockIdx.x) * SUMS, b, sum1, sum2);
}

// sums [G, blocks, SUMS] -> gradients of the weights, each [G, ...] as the parameters lie.
extern "C" __global__ void __launch_bounds__(BLOCK) mlp_reduce(
    const float* __restrict__ sums, const float* __restrict__ t, const int* __restrict__ row_of, float* __restrict__ w1,
    float* __restrict__ b1, float* __restrict__ w2, float* __restrict__ b2, float* __restrict__ wp,
    float* __restrict__ bp, float* __restrict__ wc, float* __restrict__ bc, float* __restrict__ NULLABLE ws,
    float* __restrict__ NULLABLE bs, int blocks, int inputs, int codes, float unit, float unscale) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.y;
  if (i >= SUMS) return;
  float total = 0.f;
  for (int b = 0; b < blocks; b++) total += sums[((ll)g * blocks + b) * SUMS + i];
  total *= unscale;
  if (i < SUM_B1) {
    int row = row_of[i / HIDDEN];
    if (row >= 0) w1[((ll)g * inputs + row) * HIDDEN + i % HIDDEN] = total;
  } else if (i < SUM_W2) {
    int n = i - SUM_B1, half = codes / 2;
    b1[g * HIDDEN + n] = total;
    float* row = w1 + ((ll)g * inputs + inputs - codes) * HIDDEN + n;
    float angle = t[g] * unit;
    row[0] = t[g] * total;
    for (int k = 0; k < half; k++, angle *= 2.f) {
      row[(1 + k) * HIDDEN] = sinpif(angle) * total;
      row[(1 + half + k) * HIDDEN] = cospif(angle) * total;
    }
  } else if (i < SUM_B2) {
    w2[(ll)g * HIDDEN * HIDDEN + i - SUM_W2] = total;
  } else if (i < SUM_WH) {
    b2[g * HIDDEN + i - SUM_B2] = total;
  } else {
    bool is_bias = i >= SUM_BH;
    int k = (i - SUM_WH) / OUT, n = (i - SUM_WH) % OUT, row = is_bias ? g : g * HIDDEN + k;
    if (n < 2) (is_bias ? bp : wp)[row * 2 + n] = total;
    else if (n < 5) (is_bias ? bc : wc)[row * 3 + n - 2] = total;
    else if (ws) (is_bias ? bs : ws)[row * 3 + n - 5] = total;
  }
}
