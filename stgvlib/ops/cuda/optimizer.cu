// One optimiser step over a flat fp32 parameter buffer: Adam (Kingma & Ba 2015) or Adan (Xie et al. 2022, Alg. 1).
//
// One thread an element. The step number and the learning rates (a table [steps, segments]) are read on the device, so
// the launch can live in a CUDA graph. `starts` [segments + 1] bounds the segments; `floors` [segments] is the
// lower bound of l1 and l3 in rows of three (the middle component is free), -inf where there is none.
// Bytes an element: 28 (Adam) or 44 (Adan). One thread of a block computes the bias corrections for all.

__device__ __forceinline__ int segment_of(const int* starts, int segments, int k) {
  int s = 0;
  while (s + 1 < segments && k >= starts[s + 1]) s++;
  return s;
}

__device__ __forceinline__ float bounded(float value, const float* floors, int s, int k) {
  float bound = floors[s];
  return bound > -1e30f && k % 3 != 1 ? fmaxf(value, bound) : value;
}

// 1 - beta^(t + 1)
__device__ __forceinline__ float correction(float beta, long long t) { return 1.f - powf(beta, (float)(t + 1)); }

extern "C" __global__ void __launch_bounds__(BLOCK) adam(
    float* __restrict__ p, const float* __restrict__ grad, float* __restrict__ m, float* __restrict__ v,
    const int* __restrict__ starts, const float* __restrict__ floors, const float* __restrict__ rates,
    const long long* __restrict__ step, int segments, int n, float beta1, float beta2, float eps) {
  __shared__ float c1, c2;
  long long t = *step;
  if (threadIdx.x == 0) c1 = correction(beta1, t), c2 = correction(beta2, t);
  __syncthreads();
  int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= n) return;
  int s = segment_of(starts, segments, k);
  float rate = rates[t * segments + s], g = grad[k];
  float mk = beta1 * m[k] + (1 - beta1) * g, vk = beta2 * v[k] + (1 - beta2) * g * g;
  m[k] = mk;
  v[k] = vk;
  p[k] = bounded(p[k] - rate * (mk / c1) / (sqrtf(vk / c2) + eps), floors, s, k - starts[s]);
}

// beta are the decay rates, as in Adam: 0.98, 0.92, 0.99. `last` holds the gradient of the step before.
extern "C" __global__ void __launch_bounds__(BLOCK) adan(
    float* __restrict__ p, const float* __restrict__ grad, float* __restrict__ m, float* __restrict__ v,
    float* __restrict__ n2, float* __restrict__ last,
    const int* __restrict__ starts, const float* __restrict__ floors, const float* __restrict__ rates,
    const long long* __restrict__ step, int segments, int n, float beta1, float beta2, float beta3, float eps) {
  __shared__ float c1, c2, c3;
  long long t = *step;
  if (threadIdx.x == 0) c1 = correction(beta1, t), c2 = correction(beta2, t), c3 = correction(beta3, t);
  __syncthreads();
  int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= n) return;
  int s = segment_of(starts, segments, k);
  float rate = rates[t * segments + s], g = grad[k], diff = t > 0 ? g - last[k] : 0.f;
  float mk = beta1 * m[k] + (1 - beta1) * g, vk = beta2 * v[k] + (1 - beta2) * diff;
  float u = g + beta2 * diff, nk = beta3 * n2[k] + (1 - beta3) * u * u;
  m[k] = mk;
  v[k] = vk;
  n2[k] = nk;
  last[k] = g;
  float update = (mk / c1 + beta2 * vk / c2) / (sqrtf(nk / c3) + eps);
  p[k] = bounded(p[k] - rate * update, floors, s, k - starts[s]);
}

// Where the three numbers of a row are equal, so are their gradients: the mean. One thread a row.
extern "C" __global__ void __launch_bounds__(BLOCK) keep_grey(
    const float* __restrict__ rgb, float* __restrict__ grad, int rows) {
  int k = 3 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (k >= 3 * rows || rgb[k] != rgb[k + 1] || rgb[k] != rgb[k + 2]) return;
  grad[k] = grad[k + 1] = grad[k + 2] = (grad[k] + grad[k + 1] + grad[k + 2]) / 3.f;
}
