// The field's MLP, forward: from features to deformed Gaussians.
//
// mlp_begin    one block a frame: which frame, its t, and gamma(t) times its rows of W1: every Gaussian of a frame has
//              the same t, so the time code is a bias.
// mlp_forward  one warp takes 32 rows through all layers: an accumulator tile is, lane for lane, the A fragment of the
//              next layer, so activations never leave registers. Writes the deformed Gaussians.
// A row of 128 units: 48 k operations, 128 bytes in, 56 out.

#define ROWS THREADS  // that a block takes at a time, 32 a warp

// Frame, t and first bias. step null: t is given. Else frame = step * stride % count, t = (frame + 1) / count.
// gops null: batch entry g is GoP g. gamma(t) has sines of 2^k pi unit t.
extern "C" __global__ void __launch_bounds__(HIDDEN) mlp_begin(
    const float* __restrict__ w1, const float* __restrict__ b1, const ll* __restrict__ NULLABLE step,
    const ll* __restrict__ NULLABLE counts, const ll* __restrict__ NULLABLE strides,
    const int* __restrict__ NULLABLE gops, float* __restrict__ t, int* __restrict__ frame, float* __restrict__ bias,
    int inputs, int codes, float unit) {
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
  float sum = fmaf(w[0], time, b1[p * HIDDEN + n]), angle = time * unit;
  int half = codes / 2;
  for (int k = 0; k < half; k++, angle *= 2.f)
    sum = fmaf(w[(1 + k) * HIDDEN], sinpif(angle), fmaf(w[(1 + half + k) * HIDDEN], cospif(angle), sum));
  bias[g * HIDDEN + n] = sum;
}

// x [G, 8, rows, 8] fp16; mu [., n, 2], cholesky, rgb [., n, 3] canonical -> the deformed ones. rows % ROWS == 0.
extern "C" __global__ void __launch_bounds__(THREADS) mlp_forward(
    const uint4* __restrict__ x, const float* __restrict__ w1, const float* __restrict__ w2,
    const float* __restrict__ wp, const float* __restrict__ wc, const float* __restrict__ NULLABLE ws,
    const float* __restrict__ bias, const float* __restrict__ b2, const float* __restrict__ bp,
    const float* __restrict__ bc, const float* __restrict__ NULLABLE bs, const int* __restrict__ row_of,
    const int* __restrict__ NULLABLE gops, const float* __restrict__ mu, const float* __restrict__ cholesky,
    const float* __restrict__ rgb, float* __restrict__ new_mu, float* __restrict__ NULLABLE new_cholesky,
    float* __restrict__ new_rgb, int n, int rows, int inputs, float scale_x, float scale_y, float scale_shape) {
  extern __shared__ uint4 shared[];
  int lane = threadIdx.x & 31, g = blockIdx.y, p = gops ? gops[g] : g, c = lane & 3;
  Weights w = carve((half_t*)shared);
  load_weights(w, w1, w2, wp, wc, ws, bias, b2, bp, bc, bs, row_of, inputs, g, p);
  __syncthreads();
  x += (ll)g * 8 * rows;
  unsigned w2_at = address(w.w2) + front(lane), heads_at = address(w.heads) + 2 * (lane & 15) * OUT;
  for (int first = blockIdx.x * ROWS; first < n; first += gridDim.x * ROWS) {
    int row = first + (threadIdx.x >> 5) * 32 + (lane >> 2);
    unsigned h1[2][TILES][4];
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
    for (int j = 0; j < TILES; j++) {
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
      for (int k = 0; k < TILES; k++) {
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
            top[m][2 * i + half] = pack_clamped(activate(acc[m][i][2 * half]), activate(acc[m][i][2 * half + 1]));
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
