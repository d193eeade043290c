// The deformation field's MLP, fused: 48 features and gamma(t) -> 128 -> 128 -> 8 with ReLU (paper, eq. 8), batched over
// GoPs, fp16 operands on tensor cores with fp32 sums.
//
// mlp_begin     one block a frame: which frame, its t, and gamma(t) times its rows of W1: every Gaussian of a frame has
//               the same t, so the time code is a bias.
// mlp_forward   one warp takes 32 rows through all layers: an accumulator tile is, lane for lane, the A fragment of the
//               next layer, so activations never leave registers. Writes the deformed Gaussians.
// mlp_backward  one block takes 128 rows at a time: activations again (cheaper than reading them), back to the features,
//               and the products that are the weights' gradients, whose sums stay in registers until the block is done.
// mlp_reduce    adds up the blocks' sums: no atomics, so the weights' gradients are deterministic.
// Gradients are multiplied by `scale` on the way in and divided by it on the way out, for fp16's range.
// Operations a row: 48 k forward, 150 k backward. Bytes a row: 128 in, 56 out forward; 160 in, 128 out backward.
//
// Features x and their gradients: fp16 [G, 8 levels, rows, 8]: two spatial and four temporal features a level, 16 bytes.
// Lane (r, c) = (lane / 4, lane % 4) of a fragment holds levels c and c + 4 of rows r and r + 8; `row_of` [48] says which
// row of W1 goes with the k-th column in that order, or -1 for none.
// Fragments of mma.m16n8k16:
//   A: (r, 2c) (r + 8, 2c) (r, 2c + 8) (r + 8, 2c + 8)   B: (k = 2c, n = r) (k = 2c + 8, n = r)   C: (r, 2c) (r + 8, 2c)

#define K1 48
#define HIDDEN 128
#define OUT 8       // 2 position, 3 colour, 3 shape
#define PITCH 136   // halves between two rows in shared memory: 17 x 16 bytes, so eight rows never share a bank
#define FORWARD_WARPS 12
#define WARPS 8     // of the backward pass
#define ROWS 128    // of a block's step
#if __CUDA_ARCH__ == 750 || __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
#define STAGE 64    // rows staged at a time where a block has 99 KB of shared memory
#else
#define STAGE 128
#endif
// Offsets into a block's sums, in floats
#define SUM_W1 0
#define SUM_B1 (K1 * HIDDEN)
#define SUM_W2 (SUM_B1 + HIDDEN)
#define SUM_B2 (SUM_W2 + HIDDEN * HIDDEN)
#define SUM_WH (SUM_B2 + HIDDEN)
#define SUM_BH (SUM_WH + HIDDEN * OUT)
#define SUMS (SUM_BH + OUT)

typedef unsigned short half_t;

// Within fp16's range.
__device__ __forceinline__ unsigned pack_clamped(float low, float high) {
  return pack(fminf(fmaxf(low, -65000.f), 65000.f), fminf(fmaxf(high, -65000.f), 65000.f));
}

__device__ __forceinline__ void mma(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// k = 8 instead of 16
__device__ __forceinline__ void mma8(float c[4], unsigned a0, unsigned a1, unsigned b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b));
}

// Shared memory is addressed by 32 bits here: pointers of 64 would cost registers.
__device__ __forceinline__ unsigned address(const void* p) {
  unsigned a;
  asm("{.reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t;}" : "=r"(a) : "l"(p));
  return a;
}

// Four 8x8 matrices, as they lie; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load4(unsigned r[4], unsigned p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p) : "memory");
}

// Four 8x8 matrices, transposed.
__device__ __forceinline__ void load4t(unsigned r[4], unsigned p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p) : "memory");
}

__device__ __forceinline__ void load2t(unsigned r[2], unsigned p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(p) : "memory");
}

// Where a lane points, in bytes, for the B fragments of two neighbouring column tiles of W [k][n] (with load4t), ...
__device__ __forceinline__ int front(int lane) { return 2 * ((lane & 15) * PITCH + (lane >> 4) * 8); }
// ... of W^T (with load4), ...
// ... or for an A fragment of X^T, X [row][column] (with load4t).
__device__ __forceinline__ int back(int lane) {
  return 2 * (((lane & 7) + (lane >> 4) * 8) * PITCH + (lane >> 3 & 1) * 8);
}

struct Weights {
  half_t *w1, *w2, *heads;  // [48][PITCH], [128][PITCH], [128][8]
  float *b1, *b2, *bh;
};

__device__ __forceinline__ Weights carve(half_t* shared) {
  Weights w;
  w.w1 = shared;
  w.w2 = w.w1 + K1 * PITCH;
  w.heads = w.w2 + HIDDEN * PITCH;
  w.b1 = (float*)(w.heads + HIDDEN * OUT);
  w.b2 = w.b1 + HIDDEN;
  w.bh = w.b2 + HIDDEN;
  return w;
}

// The global matrices of GoP p: W1 [inputs][128], W2 [128][128], heads [128][2], [128][3] and [128][3] or null.
__device__ __forceinline__ void load_weights(
    const Weights& w, const float* w1, const float* w2, const float* wp, const float* wc, const float* ws,
    const float* b1, const float* b2, const float* bp, const float* bc, const float* bs, const int* row_of, int inputs,
    int g, int p) {
  w1 += (ll)p * inputs * HIDDEN;
  w2 += (ll)p * HIDDEN * HIDDEN;
  unsigned *s1 = (unsigned*)w.w1, *s2 = (unsigned*)w.w2, *sh = (unsigned*)w.heads;
  for (int i = threadIdx.x; i < K1 * 64; i += blockDim.x) {
    int k = i >> 6, n = i & 63, row = row_of[k];
    float2 v = row < 0 ? make_float2(0.f, 0.f) : *(const float2*)(w1 + row * HIDDEN + 2 * n);
    s1[k * (PITCH / 2) + n] = pack_clamped(v.x, v.y);
  }
  for (int i = threadIdx.x; i < HIDDEN * 64; i += blockDim.x) {
    float2 v = *(const float2*)(w2 + 2 * i);
    s2[(i >> 6) * (PITCH / 2) + (i & 63)] = pack_clamped(v.x, v.y);
  }
  for (int i = threadIdx.x; i < HIDDEN * OUT / 2; i += blockDim.x) {
    int k = p * HIDDEN + (i >> 2), n = i & 3;
    float a, b;
    if (n == 0) {
      a = wp[k * 2]; b = wp[k * 2 + 1];
    } else if (n == 1) {
      a = wc[k * 3]; b = wc[k * 3 + 1];
    } else {
      a = n == 2 ? wc[k * 3 + 2] : ws ? ws[k * 3 + 1] : 0.f;
      b = ws ? ws[k * 3 + (n == 2 ? 0 : 2)] : 0.f;
    }
    sh[i] = pack_clamped(a, b);
  }
  for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x) {
    w.b1[i] = b1[g * HIDDEN + i];
    w.b2[i] = b2[p * HIDDEN + i];
  }
  if (threadIdx.x < OUT) {
    int i = threadIdx.x;
    w.bh[i] = i < 2 ? bp[p * 2 + i] : i < 5 ? bc[p * 3 + i - 2] : bs ? bs[p * 3 + i - 5] : 0.f;
  }
}

// A fragments of the features of rows `row` and `row + 8`; x points at the GoP.
__device__ __forceinline__ void load_features(unsigned a[3][4], const uint4* __restrict__ x, int rows, int row, int c) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    uint4 low = x[c * rows + row + 8 * half], high = x[(c + 4) * rows + row + 8 * half];
    a[0][half] = low.x; a[0][2 + half] = high.x;
    a[1][half] = low.y; a[1][2 + half] = low.z;
    a[2][half] = high.y; a[2][2 + half] = high.z;
  }
}

// One layer with ReLU for M tiles of 16 rows: in [M][KT][4] fragments -> out [M][8][4] fragments.
template <int M, int KT>
__device__ __forceinline__ void layer(const unsigned (&in)[M][KT][4], unsigned (&out)[M][8][4], unsigned w,
                                      const float* bias, int lane) {
  int c = lane & 3;
  w += front(lane);
#pragma unroll
  for (int j = 0; j < 8; j++) {  // 16 columns at a time
    float acc[M][2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float2 b = *(const float2*)(bias + 16 * j + 8 * i + 2 * c);
#pragma unroll
      for (int m = 0; m < M; m++) {
        acc[m][i][0] = acc[m][i][2] = b.x;
        acc[m][i][1] = acc[m][i][3] = b.y;
      }
    }
#pragma unroll
    for (int k = 0; k < KT; k++) {
      unsigned b[4];
      load4t(b, w + 32 * k * PITCH + 32 * j);
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma(acc[m][0], in[m][k], b[0], b[1]);
        mma(acc[m][1], in[m][k], b[2], b[3]);
      }
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          out[m][j][2 * i + half] = pack_clamped(fmaxf(acc[m][i][2 * half], 0.f), fmaxf(acc[m][i][2 * half + 1], 0.f));
  }
}

// Frame, t and first bias. step null: t is given. Else frame = step * stride % count, t = (frame + 1) / count.
// gops null: batch entry g is GoP g.
extern "C" __global__ void __launch_bounds__(HIDDEN) mlp_begin(
    const float* __restrict__ w1, const float* __restrict__ b1, const ll* __restrict__ step,
    const ll* __restrict__ counts, const ll* __restrict__ strides, const int* __restrict__ gops, float* __restrict__ t, int* __restrict__ frame,
    float* __restrict__ bias, int inputs, int codes) {
  int g = blockIdx.x, n = threadIdx.x, p = gops ? gops[g] : g;
  float time;
  if (step) {
    int now = (int)(*step * strides[g] % counts[g]);
    time = (float)(now + 1) / (float)counts[g];
    if (n == 0) {
      t[g] = time;
      frame[g] = now;
    }
  } else {
    time = t[g];
  }
  const float* w = w1 + ((ll)p * inputs + inputs - codes) * HIDDEN + n;
  float sum = fmaf(w[0], time, b1[p * HIDDEN + n]), angle = time;
  int half = codes / 2;
  for (int k = 0; k < half; k++, angle *= 2.f)
    sum = fmaf(w[(1 + k) * HIDDEN], sinpif(angle), fmaf(w[(1 + half + k) * HIDDEN], cospif(angle), sum));
  bias[g * HIDDEN + n] = sum;
}

// x [G, 8, rows, 8] fp16; mu [., n, 2], cholesky, rgb [., n, 3] canonical -> the deformed ones. rows % 384 == 0.
extern "C" __global__ void __launch_bounds__(32 * FORWARD_WARPS) mlp_forward(
    const uint4* __restrict__ x, const float* __restrict__ w1, const float* __restrict__ w2,
    const float* __restrict__ wp, const float* __restrict__ wc, const float* __restrict__ ws,
    const float* __restrict__ bias, const float* __restrict__ b2, const float* __restrict__ bp,
    const float* __restrict__ bc, const float* __restrict__ bs, const int* __restrict__ row_of,
    const int* __restrict__ gops, const float* __restrict__ mu, const float* __restrict__ cholesky,
    const float* __restrict__ rgb, float* __restrict__ new_mu, float* __restrict__ new_cholesky,
    float* __restrict__ new_rgb, int n, int rows, int inputs, float scale_x, float scale_y, float scale_shape) {
  extern __shared__ uint4 shared[];
  int lane = threadIdx.x & 31, g = blockIdx.y, p = gops ? gops[g] : g, c = lane & 3;
  Weights w = carve((half_t*)shared);
  load_weights(w, w1, w2, wp, wc, ws, bias, b2, bp, bc, bs, row_of, inputs, g, p);
  __syncthreads();
  x += (ll)g * 8 * rows;
  unsigned w2_at = address(w.w2) + front(lane), heads_at = address(w.heads) + 2 * (lane & 15) * OUT;
  for (int first = blockIdx.x * 32 * FORWARD_WARPS; first < n; first += gridDim.x * 32 * FORWARD_WARPS) {
    int row = first + (threadIdx.x >> 5) * 32 + (lane >> 2);
    unsigned h1[2][8][4];
    {
      unsigned a[2][3][4];
      load_features(a[0], x, rows, row, c);
      load_features(a[1], x, rows, row + 16, c);
      layer<2, 3>(a, h1, address(w.w1), w.b1, lane);
    }
    float out[2][4];
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) out[m][i] = w.bh[2 * c + (i & 1)];
#pragma unroll 1
    for (int j = 0; j < 8; j++) {
      float acc[2][2][4];
      unsigned top[2][4], b[4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float2 v = *(const float2*)(w.b2 + 16 * j + 8 * i + 2 * c);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          acc[m][i][0] = acc[m][i][2] = v.x;
          acc[m][i][1] = acc[m][i][3] = v.y;
        }
      }
#pragma unroll
      for (int k = 0; k < 8; k++) {
        load4t(b, w2_at + 32 * k * PITCH + 32 * j);
#pragma unroll
        for (int m = 0; m < 2; m++) {
          mma(acc[m][0], h1[m][k], b[0], b[1]);
          mma(acc[m][1], h1[m][k], b[2], b[3]);
        }
      }
      load2t(b, heads_at + 2 * 16 * j * OUT);
#pragma unroll
      for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int half = 0; half < 2; half++)
            top[m][2 * i + half] = pack_clamped(fmaxf(acc[m][i][2 * half], 0.f), fmaxf(acc[m][i][2 * half + 1], 0.f));
        mma(out[m], top[m], b[0], b[1]);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int i = row + 16 * m + 8 * half;
        if (i >= n) continue;
        ll o = (ll)g * n + i, q = (ll)p * n + i;
        float a = out[m][2 * half], b = out[m][2 * half + 1];
        if (c == 0) {
          new_mu[2 * o] = fmaf(a, scale_x, mu[2 * q]);
          new_mu[2 * o + 1] = fmaf(b, scale_y, mu[2 * q + 1]);
        } else if (c == 1) {
          new_rgb[3 * o] = rgb[3 * q] + a;
          new_rgb[3 * o + 1] = rgb[3 * q + 1] + b;
        } else {
          if (c == 2) new_rgb[3 * o + 2] = rgb[3 * q + 2] + a;
          if (new_cholesky) {
            int first_shape = c == 2 ? 0 : 1;
            if (c == 3) new_cholesky[3 * o + 1] = fmaf(a, scale_shape, cholesky[3 * q + 1]);
            new_cholesky[3 * o + 2 * first_shape] = fmaf(b, scale_shape, cholesky[3 * q + 2 * first_shape]);
          }
        }
      }
  }
}

// Bits 15 and 31: which of two activations, both >= 0, are positive.
__device__ __forceinline__ unsigned positive(unsigned activations) {
  return (activations + 0x7fff7fffu) & 0x80008000u;
}

// Two gradients as fp16, kept where `gate` has bits 15 and 31.
__device__ __forceinline__ unsigned gated(float a, float b, unsigned gate) {
  return pack_clamped(a, b) & (gate >> 15 & 0x10001u) * 0xffffu;
}

// Write A fragments h [8][4] of rows r, r + 8 as rows of a matrix in shared memory.
__device__ __forceinline__ void store_rows(half_t* matrix, const unsigned (&h)[8][4], int r, int c) {
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      *(unsigned*)(matrix + (r + 8 * (i & 1)) * PITCH + 16 * j + 8 * (i >> 1) + 2 * c) = h[j][i];
}

// Add a column pair over a quarter of the staged rows to this thread's sum, which lies in shared memory.
__device__ __forceinline__ void add_columns(float2* sums, const half_t* matrix) {
  const unsigned* p = (const unsigned*)matrix + (threadIdx.x >> 6) * (STAGE / 4) * (PITCH / 2) + (threadIdx.x & 63);
  float2 sum = sums[threadIdx.x];
#pragma unroll 4
  for (int i = 0; i < STAGE / 4; i++) {
    float2 v = unpack(p[i * (PITCH / 2)]);
    sum.x += v.x;
    sum.y += v.y;
  }
  sums[threadIdx.x] = sum;
}

// Gradients of the deformed Gaussians [G, n, .] (grad_cholesky null where the shape is not deformed) -> gradients of
// the features dx [G, 8, rows, 8] fp16 times scale, and sums [G, gridDim.x, SUMS] times scale. rows % 128 == 0; padding
// rows of x must be finite.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) mlp_backward(
    const uint4* __restrict__ x, const float* __restrict__ w1, const float* __restrict__ w2,
    const float* __restrict__ wp, const float* __restrict__ wc, const float* __restrict__ ws,
    const float* __restrict__ bias, const float* __restrict__ b2, const float* __restrict__ bp,
    const float* __restrict__ bc, const float* __restrict__ bs, const int* __restrict__ row_of,
    const float* __restrict__ grad_mu, const float* __restrict__ grad_cholesky, const float* __restrict__ grad_rgb,
    uint4* __restrict__ dx, float* __restrict__ sums, int n, int rows, int inputs, float scale_x, float scale_y,
    float scale_shape, float scale) {
  extern __shared__ uint4 shared[];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = blockIdx.y, r = lane >> 2, c = lane & 3;
  Weights w = carve((half_t*)shared);
  load_weights(w, w1, w2, wp, wc, ws, bias, b2, bp, bc, bs, row_of, inputs, g, g);
  half_t *left = (half_t*)(w.bh + OUT), *right = left + STAGE * PITCH, *grads = right + STAGE * PITCH;
  float2* columns = (float2*)(grads + STAGE * OUT);  // sums of the biases: [2][256], then [256] of the heads
  float4* sum_heads = (float4*)(columns + 3 * 256) + threadIdx.x;
  for (int i = 0; i < 3; i++) columns[i * 256 + threadIdx.x] = make_float2(0.f, 0.f);
  *sum_heads = make_float4(0.f, 0.f, 0.f, 0.f);
  const int part = warp * 16 / STAGE, place = warp * 16 % STAGE + r;
  // Addresses as one register and constants.
  const unsigned w1_at = address(shared), w2_at = w1_at + 2 * K1 * PITCH, heads_all = w2_at + 2 * HIDDEN * PITCH;
  const unsigned left_at = heads_all + 2 * HIDDEN * OUT + 4 * (2 * HIDDEN + OUT), right_at = left_at + 2 * STAGE * PITCH;
  const unsigned heads_at = heads_all + 2 * lane * OUT, grads_at = right_at + 2 * STAGE * PITCH + 2 * (lane & 15) * OUT;
  float sum1[3][2][4] = {}, sum2[2][8][4] = {};
  x += (ll)g * 8 * rows;
  dx += (ll)g * 8 * rows;
  __syncthreads();
  for (int first = blockIdx.x * ROWS; first < n; first += gridDim.x * ROWS) {
    int row = first + warp * 16 + r;
    unsigned h1[1][8][4], h2[1][8][4], out[2];
    {
      unsigned a[1][3][4];
      load_features(a[0], x, rows, row, c);
      layer<1, 3>(a, h1, w1_at, w.b1, lane);
    }
    layer<1, 8>(h1, h2, w2_at, w.b2, lane);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float u = 0.f, v = 0.f;
      if (row + 8 * half < n) {
        unsigned o = g * n + row + 8 * half;
        if (c == 0) {
          u = grad_mu[2 * o] * scale_x;
          v = grad_mu[2 * o + 1] * scale_y;
        } else if (c == 1) {
          u = grad_rgb[3 * o];
          v = grad_rgb[3 * o + 1];
        } else {
          if (c == 2) u = grad_rgb[3 * o + 2];
          if (grad_cholesky) {
            if (c == 3) u = grad_cholesky[3 * o + 1] * scale_shape;
            v = grad_cholesky[3 * o + (c == 2 ? 0 : 2)] * scale_shape;
          }
        }
      }
      out[half] = pack_clamped(u * scale, v * scale);
      float2 rounded = unpack(out[half]), sum = columns[512 + threadIdx.x];
      columns[512 + threadIdx.x] = make_float2(sum.x + rounded.x, sum.y + rounded.y);
    }
    for (int s = 0; s < ROWS / STAGE; s++) {  // heads: right^T grads
      if (s == part) {
        store_rows(right, h2[0], place, c);
        ((unsigned*)grads)[place * 4 + c] = out[0];
        ((unsigned*)grads)[(place + 8) * 4 + c] = out[1];
      }
      __syncthreads();
      float4 before = *sum_heads;
      float acc[4] = {before.x, before.y, before.z, before.w};
#pragma unroll 1
      for (int k = 0; k < STAGE / 16; k++) {
        unsigned u[4], v[2];
        load4t(u, right_at + 32 * k * PITCH + 32 * warp + back(lane));
        load2t(v, grads_at + 32 * k * OUT);
        mma(acc, u, v[0], v[1]);
      }
      *sum_heads = make_float4(acc[0], acc[1], acc[2], acc[3]);
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < 16; j += 4) {  // back through the heads: h2 becomes its gradient
      unsigned b[4];
      load4(b, heads_at + 16 * j * OUT);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float acc[4] = {};
        mma8(acc, out[0], out[1], b[i]);
        unsigned* h = &h2[0][(j + i) / 2][2 * (i & 1)];
        h[0] = gated(acc[0], acc[1], positive(h[0]));
        h[1] = gated(acc[2], acc[3], positive(h[1]));
      }
    }
    unsigned gates[2] = {0, 0};  // of h1, which the next products leave no registers for
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) gates[j >> 2] |= positive(h1[0][j][i]) >> (4 * (j & 3) + i);
    for (int s = 0; s < ROWS / STAGE; s++) {  // second layer: left^T right, 32 x 64 of it a warp
      if (s == part) {
        store_rows(left, h1[0], place, c);
        store_rows(right, h2[0], place, c);
      }
      __syncthreads();
      add_columns(columns + 256, right);
#pragma unroll 1
      for (int k = 0; k < STAGE / 16; k++) {
        unsigned u[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) load4t(u[m], left_at + 32 * k * PITCH + (warp >> 1) * 64 + 32 * m + back(lane));
#pragma unroll
        for (int q = 0; q < 4; q++) {
          unsigned v[4];
          load4t(v, right_at + 32 * k * PITCH + (warp & 1) * 128 + 32 * q + front(lane));
#pragma unroll
          for (int m = 0; m < 2; m++) {
            mma(sum2[m][2 * q], u[m], v[0], v[1]);
            mma(sum2[m][2 * q + 1], u[m], v[2], v[3]);
          }
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {  // back through the second layer, into h1
      float acc[2][4] = {};
#pragma unroll
      for (int k = 0; k < 8; k++) {
        unsigned b[4];
        load4(b, w2_at + 32 * j * PITCH + 32 * k + back(lane));
        mma(acc[0], h2[0][k], b[0], b[1]);
        mma(acc[1], h2[0][k], b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
        h1[0][j][i] = gated(acc[i >> 1][2 * (i & 1)], acc[i >> 1][2 * (i & 1) + 1], gates[j >> 2] << (4 * (j & 3) + i));
    }
    unsigned d[6][2];  // the features' gradient
#pragma unroll
    for (int j = 0; j < 3; j++) {
      float acc[2][4] = {};
#pragma unroll
      for (int k = 0; k < 8; k++) {
        unsigned b[4];
        load4(b, w1_at + 32 * j * PITCH + 32 * k + back(lane));
        mma(acc[0], h1[0][k], b[0], b[1]);
        mma(acc[1], h1[0][k], b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) d[2 * j + (i >> 1)][i & 1] = pack_clamped(acc[i >> 1][2 * (i & 1)], acc[i >> 1][2 * (i & 1) + 1]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      dx[c * rows + row + 8 * half] = make_uint4(d[0][half], d[2][half], d[3][half], 0);
      dx[(c + 4) * rows + row + 8 * half] = make_uint4(d[1][half], d[4][half], d[5][half], 0);
    }
    for (int s = 0; s < ROWS / STAGE; s++) {  // first layer: left^T right, 48 x 16 of it a warp
      if (s == part) {
        unsigned a[3][4];
        load_features(a, x, rows, row, c);
#pragma unroll
        for (int j = 0; j < 3; j++)
#pragma unroll
          for (int i = 0; i < 4; i++)
            *(unsigned*)(left + (place + 8 * (i & 1)) * PITCH + 16 * j + 8 * (i >> 1) + 2 * c) = a[j][i];
        store_rows(right, h1[0], place, c);
      }
      __syncthreads();
      add_columns(columns, right);
#pragma unroll 1
      for (int k = 0; k < STAGE / 16; k++) {
        unsigned v[4];
        load4t(v, right_at + 32 * k * PITCH + 32 * warp + front(lane));
#pragma unroll
        for (int m = 0; m < 3; m++) {
          unsigned u[4];
          load4t(u, left_at + 32 * k * PITCH + 32 * m + back(lane));
          mma(sum1[m][0], u, v[0], v[1]);
          mma(sum1[m][1], u, v[2], v[3]);
        }
      }
      __syncthreads();
    }
  }
  sums += ((ll)g * gridDim.x + blockIdx.x) * SUMS;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int u = 2 * half, v = u + 1;
#pragma unroll
    for (int m = 0; m < 3; m++)
#pragma unroll
      for (int j = 0; j < 2; j++)
        *(float2*)(sums + SUM_W1 + (16 * m + r + 8 * half) * HIDDEN + 16 * warp + 8 * j + 2 * c) =
            make_float2(sum1[m][j][u], sum1[m][j][v]);
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int j = 0; j < 8; j++)
        *(float2*)(sums + SUM_W2 + ((warp >> 1) * 32 + 16 * m + r + 8 * half) * HIDDEN + (warp & 1) * 64 + 8 * j + 2 * c) =
            make_float2(sum2[m][j][u], sum2[m][j][v]);
    *(float2*)(sums + SUM_WH + (16 * warp + r + 8 * half) * OUT + 2 * c) =
        half ? make_float2(sum_heads->z, sum_heads->w) : make_float2(sum_heads->x, sum_heads->y);
  }
  __syncthreads();
  int which = threadIdx.x >> 6, pair = threadIdx.x & 63;  // 0, 1: hidden layers, 2: heads
  if (which == 2 ? pair < 4 : which < 2) {
    float2 total = make_float2(0.f, 0.f);
    for (int i = pair; i < 256; i += which == 2 ? 4 : 64) {
      total.x += columns[which * 256 + i].x;
      total.y += columns[which * 256 + i].y;
    }
    *(float2*)(sums + (which == 0 ? SUM_B1 : which == 1 ? SUM_B2 : SUM_BH) + 2 * pair) = total;
  }
}

// sums [G, blocks, SUMS] -> gradients of the weights, each [G, ...] as the parameters lie.
extern "C" __global__ void __launch_bounds__(256) mlp_reduce(
    const float* __restrict__ sums, const float* __restrict__ t, const int* __restrict__ row_of, float* __restrict__ w1,
    float* __restrict__ b1, float* __restrict__ w2, float* __restrict__ b2, float* __restrict__ wp,
    float* __restrict__ bp, float* __restrict__ wc, float* __restrict__ bc, float* __restrict__ ws,
    float* __restrict__ bs, int blocks, int inputs, int codes, float unscale) {
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
    float angle = t[g];
    row[0] = angle * total;
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
