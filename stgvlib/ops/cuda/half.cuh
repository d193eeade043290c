// What every kernel file begins with (compiler.py puts it there): pairs of fp16 numbers in 32 bits.

typedef long long ll;
#define NULLABLE  // of a kernel's parameter: the pointer may be null

__device__ __forceinline__ unsigned pack(float low, float high) {
  unsigned short a, b;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(a) : "f"(low));
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(b) : "f"(high));
  return (unsigned)a | ((unsigned)b << 16);
}

__device__ __forceinline__ float2 unpack(unsigned v) {
  float2 r;
  asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}" : "=f"(r.x), "=f"(r.y) : "r"(v));
  return r;
}
