// What rate.cu and changes.cu share: `sent`, the numbers that a file holds of a Gaussian, `symbol`, those of a tensor
// of the field, and `sign`.

// What is sent of a Gaussian: log l1, l2 / l3, log l3; green, red - green, blue - green.
__device__ __forceinline__ void sent(const float* cholesky, const float* rgb, float (&v)[6]) {
  v[0] = logf(fmaxf(cholesky[0], MIN_SCALE));
  v[1] = cholesky[1] / cholesky[2];
  v[2] = logf(fmaxf(cholesky[2], MIN_SCALE));
  v[3] = rgb[1];
  v[4] = rgb[0] - rgb[1];
  v[5] = rgb[2] - rgb[1];
}

// What is sent of number i of a tensor: of a lattice, the difference to the point before in time, `back` numbers ago.
__device__ __forceinline__ float symbol(const float* values, int i, int back) {
  return i < back ? values[i] : values[i] - values[i - back];
}

__device__ __forceinline__ float sign(float v) { return v > 0.f ? 1.f : v < 0.f ? -1.f : 0.f; }
