// What mlp_forward.cu and mlp_backward.cu share (compiler.py puts it before both): the deformation field's MLP, fused,
// 48 features and gamma(t) -> HIDDEN -> HIDDEN -> 8 with (leaky) ReLU (paper, eq. 8), batched over GoPs, fp16 operands
// on tensor cores with fp32 sums.
//
// Features x and their gradients: fp16 [G, 8 levels, rows, 8]: six features a level, 16 bytes (encoding.py).
// Lane (r, c) = (lane / 4, lane % 4) of a fragment holds levels c and c + 4 of rows r and r + 8; `row_of` [48] says
// which row of W1 goes with the k-th column in that order, or -1 for none.
// Fragments: mma.cuh.

typedef unsigned short half_t;
constexpr int TILES = HIDDEN / 16, PAIRS = HIDDEN / 2;  // of a layer's columns, 16 or 2 at a time
constexpr int BITS = HIDDEN == 64 ? 5 : 6;              // of the number of a pair
static_assert(HIDDEN == 64 || HIDDEN == 128, "how backward products are split among warps");

// Of a unit. A slope of 0 must not become a product: -0 would pass for positive in the backward pass.
__device__ __forceinline__ float activate(float v) { return fmaxf(v, SLOPE > 0.f ? SLOPE * v : 0.f); }

// Within fp16's range.
__device__ __forceinline__ unsigned pack_clamped(float low, float high) {
  return pack(fminf(fmaxf(low, -65000.f), 65000.f), fminf(fmaxf(high, -65000.f), 65000.f));
}

// Where a lane points, in bytes, for the B fragments of two neighbouring column tiles of W [k][n] (with load4t), ...
__device__ __forceinline__ int front(int lane) { return 2 * ((lane & 15) * PITCH + (lane >> 4) * 8); }
// ... of W^T (with load4), ...
// ... or for an A fragment of X^T, X [row][column] (with load4t).
__device__ __forceinline__ int back(int lane) {
  return 2 * (((lane & 7) + (lane >> 4) * 8) * PITCH + (lane >> 3 & 1) * 8);
}

struct Weights {
  half_t *w1, *w2, *heads;  // [48][PITCH], [HIDDEN][PITCH], [HIDDEN][8]
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

// The global matrices of GoP p: W1 [inputs][HIDDEN], W2 [HIDDEN][HIDDEN], heads [HIDDEN][2], [HIDDEN][3] and as many
// or null.
__device__ __forceinline__ void load_weights(
    const Weights& w, const float* w1, const float* w2, const float* wp, const float* wc, const float* ws,
    const float* b1, const float* b2, const float* bp, const float* bc, const float* bs, const int* row_of, int inputs,
    int g, int p) {
  w1 += (ll)p * inputs * HIDDEN;
  w2 += (ll)p * HIDDEN * HIDDEN;
  unsigned *s1 = (unsigned*)w.w1, *s2 = (unsigned*)w.w2, *sh = (unsigned*)w.heads;
  for (int i = threadIdx.x; i < K1 * PAIRS; i += blockDim.x) {
    int k = i >> BITS, n = i & PAIRS - 1, row = row_of[k];
    float2 v = row < 0 ? make_float2(0.f, 0.f) : *(const float2*)(w1 + row * HIDDEN + 2 * n);
    s1[k * (PITCH / 2) + n] = pack_clamped(v.x, v.y);
  }
  for (int i = threadIdx.x; i < HIDDEN * PAIRS; i += blockDim.x) {
    float2 v = *(const float2*)(w2 + 2 * i);
    s2[(i >> BITS) * (PITCH / 2) + (i & PAIRS - 1)] = pack_clamped(v.x, v.y);
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

// One layer for M tiles of 16 rows: in [M][KT][4] fragments -> out [M][TILES][4] fragments.
template <int M, int KT>
__device__ __forceinline__ void layer(const unsigned (&in)[M][KT][4], unsigned (&out)[M][TILES][4], unsigned w,
                                      const float* bias, int lane) {
  int c = lane & 3;
  w += front(lane);
#pragma unroll
  for (int j = 0; j < TILES; j++) {  // 16 columns at a time
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
          out[m][j][2 * i + half] = pack_clamped(activate(acc[m][i][2 * half]), activate(acc[m][i][2 * half + 1]));
  }
}
