// What splat.cu and splat_mse.cu share (compiler.py puts it before both). A pixel's weight is exp2(-|z|^2),
// z1 = a1 dx, z2 = a3 dy - k dx; shape[g, n] = x, y, a1, a3; paint[g, n] = k, r, g, b.

#define U 0.8493218002880191f  // sqrt(log2(e) / 2)
#define FULL 0xffffffffu

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float root(float v) {
  float r;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}

// Leftmost and rightmost x of an ellipse in the rows from `first` to `last`, all as offsets from its centre: those of
// the whole ellipse, or they lie in the first or in the last row. A hair more; of rows beyond the ellipse, anything.
__device__ __forceinline__ float2 extent(float a1, float a3, float k, float first, float last) {
  float a = a1 * a1 + k * k, both = a1 * a3, inverse = __fdividef(1.f, a);
  float extreme = RADIUS * U * __fdividef(k, both);  // the row of the rightmost point
  float high = fminf(fmaxf(extreme, first), last), low = fminf(fmaxf(-extreme, first), last);
  float room = a * (CUT * 1.0001f), skew = a3 * k;
  float left = skew * low - root(fmaxf(room - both * both * low * low, 0.f));
  float right = skew * high + root(fmaxf(room - both * both * high * high, 0.f));
  return make_float2(left * inverse - 0.01f, right * inverse + 0.01f);
}

// Which 8x8 quadrants of a tile an ellipse may reach, in bits. Its centre and the rows of its box: from the tile on.
__device__ __forceinline__ unsigned quadrants(float4 shape, float k, float x, float y, int first, int last) {
  unsigned hits = 0;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    if (first >= 8 * row + 8 || last < 8 * row) continue;
    float top = 8 * row + 0.5f - y;
    float2 of = extent(shape.z, shape.w, k, top, top + 7.f);
    if (of.x + x <= 7.5f && of.y + x >= 0.5f) hits |= 1u << 2 * row;
    if (of.x + x <= 15.5f && of.y + x >= 8.5f) hits |= 2u << 2 * row;
  }
  return hits;
}

// The gradient of x (i = 0) or y (1), of l1, l2 or l3, from the weighted moments of z; z carries U, so first moments
// U^2 and second ones U^3.
__device__ __forceinline__ float d_centre(int i, float4 shape, float k, float s1, float s2) {
  return (i ? s2 * shape.w : s1 * shape.z - s2 * k) / (U * U);
}

__device__ __forceinline__ float d_scale(int i, float4 shape, float k, float s11, float s12, float s22) {
  return (i == 0 ? s11 * shape.z - s12 * k : (i == 1 ? s12 : s22) * shape.w) / (U * U * U);
}
