// The deformation field's MLP, fused: 64 -> 128 -> 128 -> 5 with ReLU (paper, eq. 8), batched over GoPs, fp16 operands
// on tensor cores with fp32 sums.
//
// mlp_pack      fp32 weights -> fp16 in the order in which a warp's lanes hold a B fragment, for both directions.
// mlp_forward   one warp takes 16 rows through all layers: an accumulator tile is, lane for lane, the A fragment of the
//               next layer, so activations never leave registers but for the copies that the backward pass needs.
// mlp_backward  the same way back, from the heads to the features; hidden gradients are written for the weight
//               gradients, which are batched matrix products over rows.
// Gradients are multiplied by `scale` on the way in and divided by it on the way out, for fp16's range.
// Operations a row: 51 k forward, 51 k backward. Bytes a row: 128 in, 512 out (training) forward; 540 in, 1 k out backward.
// Fragments of mma.m16n8k16 (row r = lane / 4, column pair c = 2 (lane % 4)):
//   A: (r, c) (r + 8, c) (r, c + 8) (r + 8, c + 8)   B: (k = c, n = r) (k = c + 8, n = r)   C: (r, c) (r + 8, c)

#define IN 64
#define HIDDEN 128
#define WARPS 8
// Offsets of the packed matrices in fragments (uint2 a lane): k tiles x n tiles x 32 lanes
#define FRONT1 0
#define FRONT2 (FRONT1 + 4 * 16 * 32)
#define FRONT3 (FRONT2 + 8 * 16 * 32)
#define BACK3 (FRONT3 + 8 * 1 * 32)
#define BACK2 (BACK3 + 1 * 16 * 32)
#define BACK1 (BACK2 + 8 * 16 * 32)
#define PACKED (BACK1 + 8 * 8 * 32)

__device__ __forceinline__ unsigned pack(float low, float high) {
  unsigned short a, b;
  low = fminf(fmaxf(low, -65000.f), 65000.f);
  high = fminf(fmaxf(high, -65000.f), 65000.f);
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(a) : "f"(low));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(b) : "f"(high));
  return (unsigned)a | ((unsigned)b << 16);
}

__device__ __forceinline__ void mma(float c[4], const unsigned a[4], uint2 b) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b.x));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b.y));
#endif
}

struct Weights {
  const float *w1, *w2, *wp, *wc;
  int inputs;
  __device__ __forceinline__ float one(int k, int n) const { return k < inputs ? w1[k * HIDDEN + n] : 0.f; }
  __device__ __forceinline__ float two(int k, int n) const { return w2[k * HIDDEN + n]; }
  __device__ __forceinline__ float heads(int k, int n) const {
    return n < 2 ? wp[k * 2 + n] : (n < 5 ? wc[k * 3 + n - 2] : 0.f);
  }
  // Element (k, n) of the packed matrix that starts at `offset`.
  __device__ __forceinline__ float at(int offset, int k, int n) const {
    switch (offset) {
      case FRONT1: return one(k, n);
      case FRONT2: return two(k, n);
      case FRONT3: return heads(k, n);
      case BACK3: return k < 8 ? heads(n, k) : 0.f;
      case BACK2: return two(n, k);
      default: return one(n, k);
    }
  }
};

extern "C" __global__ void __launch_bounds__(256) mlp_pack(
    const float* __restrict__ w1, const float* __restrict__ w2, const float* __restrict__ wp,
    const float* __restrict__ wc, uint2* __restrict__ packed, int inputs) {
  int slot = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.y;
  if (slot >= PACKED) return;
  Weights w = {w1 + (long long)g * inputs * HIDDEN, w2 + (long long)g * HIDDEN * HIDDEN, wp + g * HIDDEN * 2,
               wc + g * HIDDEN * 3, inputs};
  int offset = slot < FRONT2 ? FRONT1 : slot < FRONT3 ? FRONT2 : slot < BACK3 ? FRONT3
             : slot < BACK2 ? BACK3 : slot < BACK1 ? BACK2 : BACK1;
  int tiles = offset == FRONT3 ? 1 : offset == BACK1 ? 8 : 16;
  int lane = slot & 31, tile = (slot - offset) >> 5, n = tile % tiles * 8 + (lane >> 2);
  int k = tile / tiles * 16 + (lane & 3) * 2;
  packed[(long long)g * PACKED + slot] =
      make_uint2(pack(w.at(offset, k, n), w.at(offset, k + 1, n)), pack(w.at(offset, k + 8, n), w.at(offset, k + 9, n)));
}

__device__ __forceinline__ bool positive(unsigned short half) { return half != 0 && half < 0x8000; }

// x [G, rows, 64] fp16; hidden1, hidden2 [G, rows, 128] fp16 or null; d_mu [G, n, 2]; d_rgb [G, n, 3]; rows % 128 == 0
extern "C" __global__ void __launch_bounds__(32 * WARPS) mlp_forward(
    const unsigned* __restrict__ x, const uint2* __restrict__ packed, const float* __restrict__ b1,
    const float* __restrict__ b2, const float* __restrict__ bp, const float* __restrict__ bc,
    const float* __restrict__ position_scale, unsigned* __restrict__ hidden1, unsigned* __restrict__ hidden2,
    float* __restrict__ d_mu, float* __restrict__ d_rgb, int n, int rows) {
  int lane = threadIdx.x & 31, g = blockIdx.y, r = lane >> 2, c = lane & 3;
  int row = (blockIdx.x * WARPS + (threadIdx.x >> 5)) * 16 + r;
  const uint2* w = packed + (long long)g * PACKED + lane;
  long long at = (long long)g * rows + row;
  unsigned a[4][4], h[8][4];
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const unsigned* p = x + at * (IN / 2) + k * 8 + c;
    a[k][0] = p[0]; a[k][1] = p[8 * (IN / 2)]; a[k][2] = p[4]; a[k][3] = p[8 * (IN / 2) + 4];
  }
  b1 += g * HIDDEN + 2 * c;
  b2 += g * HIDDEN + 2 * c;
#pragma unroll
  for (int j = 0; j < 16; j += 4) {
    float acc[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      acc[i][0] = acc[i][2] = b1[(j + i) * 8];
      acc[i][1] = acc[i][3] = b1[(j + i) * 8 + 1];
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
      for (int i = 0; i < 4; i++) mma(acc[i], a[k], w[FRONT1 + (k * 16 + j + i) * 32]);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        unsigned v = pack(fmaxf(acc[i][2 * half], 0.f), fmaxf(acc[i][2 * half + 1], 0.f));
        h[(j + i) / 2][(i & 1) * 2 + half] = v;
        if (hidden1) hidden1[(at + 8 * half) * (HIDDEN / 2) + (j + i) * 4 + c] = v;
      }
  }
  float out[4] = {};
  if (c == 0) {
    out[0] = out[2] = bp[g * 2];
    out[1] = out[3] = bp[g * 2 + 1];
  } else if (c < 3) {
    out[0] = out[2] = bc[g * 3 + 2 * c - 2];
    out[1] = out[3] = c == 1 ? bc[g * 3 + 1] : 0.f;
  }
#pragma unroll
  for (int j = 0; j < 16; j += 4) {
    float acc[4][4];
    unsigned top[2][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      acc[i][0] = acc[i][2] = b2[(j + i) * 8];
      acc[i][1] = acc[i][3] = b2[(j + i) * 8 + 1];
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
      for (int i = 0; i < 4; i++) mma(acc[i], h[k], w[FRONT2 + (k * 16 + j + i) * 32]);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        unsigned v = pack(fmaxf(acc[i][2 * half], 0.f), fmaxf(acc[i][2 * half + 1], 0.f));
        top[i / 2][(i & 1) * 2 + half] = v;
        if (hidden2) hidden2[(at + 8 * half) * (HIDDEN / 2) + (j + i) * 4 + c] = v;
      }
    mma(out, top[0], w[FRONT3 + (j / 2) * 32]);
    mma(out, top[1], w[FRONT3 + (j / 2 + 1) * 32]);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (row + 8 * half >= n) continue;
    long long o = (long long)g * n + row + 8 * half;
    float first = out[2 * half], second = out[2 * half + 1];
    if (c == 0) {
      d_mu[2 * o] = first * position_scale[0];
      d_mu[2 * o + 1] = second * position_scale[1];
    } else if (c == 1) {
      d_rgb[3 * o] = first;
      d_rgb[3 * o + 1] = second;
    } else if (c == 2) {
      d_rgb[3 * o + 2] = first;
    }
  }
}

// grad_mu [G, n, 2], grad_rgb [G, n, 3] -> grad_out [G, rows, 8], grad2, grad1 [G, rows, 128] fp16 times scale,
// grad_x [G, n, 64] float
extern "C" __global__ void __launch_bounds__(32 * WARPS) mlp_backward(
    const float* __restrict__ grad_mu, const float* __restrict__ grad_rgb, const uint2* __restrict__ packed,
    const float* __restrict__ position_scale, const unsigned* __restrict__ hidden1,
    const unsigned* __restrict__ hidden2, unsigned* __restrict__ grad_out, unsigned* __restrict__ grad2,
    unsigned* __restrict__ grad1, float* __restrict__ grad_x, int n, int rows, float scale) {
  int lane = threadIdx.x & 31, g = blockIdx.y, r = lane >> 2, c = lane & 3;
  int row = (blockIdx.x * WARPS + (threadIdx.x >> 5)) * 16 + r;
  const uint2* w = packed + (long long)g * PACKED + lane;
  long long at = (long long)g * rows + row;
  unsigned out[4] = {0, 0, 0, 0}, d2[8][4], d1[8][4];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float first = 0.f, second = 0.f;
    if (row + 8 * half < n) {
      long long o = (long long)g * n + row + 8 * half;
      if (c == 0) {
        first = grad_mu[2 * o] * position_scale[0];
        second = grad_mu[2 * o + 1] * position_scale[1];
      } else if (c == 1) {
        first = grad_rgb[3 * o];
        second = grad_rgb[3 * o + 1];
      } else if (c == 2) {
        first = grad_rgb[3 * o + 2];
      }
    }
    out[half] = pack(first * scale, second * scale);
    grad_out[(at + 8 * half) * 4 + c] = out[half];
  }
#pragma unroll
  for (int j = 0; j < 16; j++) {
    float acc[4] = {};
    mma(acc, out, w[BACK3 + j * 32]);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      long long p = (at + 8 * half) * (HIDDEN / 2) + j * 4 + c;
      unsigned h = hidden2[p];
      unsigned v = pack(positive(h & 0xffff) ? acc[2 * half] : 0.f, positive(h >> 16) ? acc[2 * half + 1] : 0.f);
      d2[j / 2][(j & 1) * 2 + half] = v;
      grad2[p] = v;
    }
  }
#pragma unroll
  for (int j = 0; j < 16; j += 4) {
    float acc[4][4] = {};
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
      for (int i = 0; i < 4; i++) mma(acc[i], d2[k], w[BACK2 + (k * 16 + j + i) * 32]);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        long long p = (at + 8 * half) * (HIDDEN / 2) + (j + i) * 4 + c;
        unsigned h = hidden1[p];
        unsigned v =
            pack(positive(h & 0xffff) ? acc[i][2 * half] : 0.f, positive(h >> 16) ? acc[i][2 * half + 1] : 0.f);
        d1[(j + i) / 2][(i & 1) * 2 + half] = v;
        grad1[p] = v;
      }
  }
  float unscale = 1.f / scale;
#pragma unroll
  for (int j = 0; j < 8; j += 4) {
    float acc[4][4] = {};
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
      for (int i = 0; i < 4; i++) mma(acc[i], d1[k], w[BACK1 + (k * 8 + j + i) * 32]);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        if (row + 8 * half < n) {
          float2 v = make_float2(acc[i][2 * half] * unscale, acc[i][2 * half + 1] * unscale);
          *(float2*)(grad_x + ((long long)g * n + row + 8 * half) * IN + (j + i) * 8 + 2 * c) = v;
        }
  }
}
