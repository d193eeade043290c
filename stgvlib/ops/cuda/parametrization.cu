// mu = (tanh(p) + 1) / 2 * extent, the parametrisation of the parent code, and its gradient. One thread a Gaussian.

extern "C" __global__ void __launch_bounds__(BLOCK) pixels(
    const float2* raw, float2* mu, int count, float width, float height) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) mu[i] = make_float2((tanhf(raw[i].x) + 1.f) / 2.f * width, (tanhf(raw[i].y) + 1.f) / 2.f * height);
}

// Turns the gradient of mu into that of p, in place.
extern "C" __global__ void __launch_bounds__(BLOCK) pixels_gradient(
    const float2* mu, float2* grad, int count, float width, float height) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float u = 2.f * mu[i].x / width - 1.f, v = 2.f * mu[i].y / height - 1.f;
  grad[i] = make_float2(grad[i].x * (1.f - u * u) / 2.f * width, grad[i].y * (1.f - v * v) / 2.f * height);
}
