// gamma(x, y), the positional encoding of D2GV and the paper's Table V, and its gradient, in mlp.cuh's feature rows:
// x and y, then sin(2^k pi x) and cos(2^k pi x) for k < F, then the same of y; six to a chunk.
//
// positional_forward   one thread a Gaussian and chunk: six features, 16 bytes.
// positional_backward  one thread a Gaussian: all its chunks.

#define PI 3.14159265358979f

// Feature `i` of 2 + 4 F at where = (x, y), and its derivative by the coordinate it depends on (axis).
__device__ __forceinline__ float feature(int i, int frequencies, float2 where, float& slope, int& axis) {
  if (i < 2) {
    axis = i;
    slope = 1.f;
    return axis ? where.y : where.x;
  }
  int k = (i - 2) % (2 * frequencies);
  axis = (i - 2) / (2 * frequencies);
  bool cosine = k >= frequencies;
  float factor = (float)(1 << (cosine ? k - frequencies : k));
  float sine, other;
  sincospif(factor * (axis ? where.y : where.x), &sine, &other);
  slope = factor * PI * (cosine ? -sine : other);
  return cosine ? other : sine;
}

// mu [., n, 2] px -> x [G, 8, rows, 8] fp16. grid: (n / BLOCK, 8, G)
extern "C" __global__ void __launch_bounds__(BLOCK) positional_forward(
    const float2* __restrict__ mu, const int* __restrict__ NULLABLE gops, uint4* __restrict__ x, int n, int rows,
    int frequencies, float width, float height) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, chunk = blockIdx.y, g = blockIdx.z, p = gops ? gops[g] : g;
  if (i >= n) return;
  float2 m = mu[(ll)p * n + i];
  m.x /= width;
  m.y /= height;
  float v[PER_CHUNK], slope;
  int axis;
#pragma unroll
  for (int j = 0; j < PER_CHUNK; j++) {
    int k = chunk * PER_CHUNK + j;
    v[j] = k < 2 + 4 * frequencies ? feature(k, frequencies, m, slope, axis) : 0.f;
  }
  x[((ll)g * CHUNKS + chunk) * rows + i] = make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), 0);
}

// dx [G, 8, rows, 8] fp16 times 1 / unscale -> added to d_mu [G, n, 2], per px. grid: (n / BLOCK, 1, G)
extern "C" __global__ void __launch_bounds__(BLOCK) positional_backward(
    const float2* __restrict__ mu, const uint4* __restrict__ dx, float2* __restrict__ d_mu, int n, int rows,
    int frequencies, float width, float height, float unscale) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.z;
  if (i >= n) return;
  ll o = (ll)g * n + i;
  float2 m = mu[o], sum = d_mu[o];
  m.x /= width;
  m.y /= height;
  for (int chunk = 0; chunk < CHUNKS; chunk++) {
    uint4 packed = dx[((ll)g * CHUNKS + chunk) * rows + i];
    unsigned pairs[3] = {packed.x, packed.y, packed.z};
#pragma unroll
    for (int j = 0; j < PER_CHUNK; j++) {
      int k = chunk * PER_CHUNK + j, axis;
      if (k >= 2 + 4 * frequencies) break;
      float2 pair = unpack(pairs[j / 2]);
      float slope;
      feature(k, frequencies, m, slope, axis);
      slope *= (j & 1 ? pair.y : pair.x) * unscale;
      if (axis) sum.y += slope / height;
      else sum.x += slope / width;
    }
  }
  d_mu[o] = sum;
}
