// CUDA as far as our kernels need it, on a CPU, so that they can be tested without a GPU (cuda_on_cpu.py builds with it).
// The threads of a block are contexts that take turns: each runs to its next barrier. Operations of a whole warp are
// barriers too. When no thread can go on, some wait at a barrier that others never reach: that ends the program.
// Functions that are written in PTX are replaced by those at the end.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

using std::max;
using std::min;
struct dim { int x, y, z; };
struct float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct short4 { short x, y, z, w; };
struct uchar3 { unsigned char x, y, z; };
struct uchar4 { unsigned char x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline short4 make_short4(short x, short y, short z, short w) { return {x, y, z, w}; }
inline uchar3 make_uchar3(unsigned char x, unsigned char y, unsigned char z) { return {x, y, z}; }

// Threads.

enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[1 << 16]};
  State state;
};
static std::vector<Thread> threads;
static ucontext_t scheduler;
static std::function<void()> body;
static dim threadIdx, blockIdx, blockDim, gridDim;
alignas(128) static char dynamic_shared[1 << 18];

inline void wait(State state) {
  int own = threadIdx.x;
  threads[own].state = state;
  swapcontext(&threads[own].context, &scheduler);
}
inline void __syncthreads() { wait(AT_BLOCK); }
inline void __syncwarp() { wait(AT_WARP); }
inline void whole_thread() {
  body();
  wait(DONE);
}

// Those from `first` to `last` that are not done, if all of them wait there, go on.
inline bool released(int first, int last, State at) {
  bool any = false;
  for (int i = first; i < last; i++) {
    if (threads[i].state != at && threads[i].state != DONE) return false;
    any |= threads[i].state == at;
  }
  for (int i = first; i < last; i++)
    if (threads[i].state == at) threads[i].state = READY;
  return any;
}

inline void run_block(int count) {
  for (auto& thread : threads) {
    getcontext(&thread.context);
    thread.context.uc_stack = {.ss_sp = thread.stack.get(), .ss_flags = 0, .ss_size = 1 << 16};
    thread.state = READY;
    makecontext(&thread.context, whole_thread, 0);
  }
  for (bool going = true; going;) {
    for (int i = 0; i < count; i++) {
      if (threads[i].state != READY) continue;
      threadIdx = {i, 0, 0};
      swapcontext(&scheduler, &threads[i].context);
    }
    going = false;
    for (int i = 0; i < count; i += 32) going |= released(i, i + 32, AT_WARP);
    going |= released(0, count, AT_BLOCK);
  }
  for (auto& thread : threads)
    if (thread.state != DONE) {
      fputs("a barrier that not all threads reach\n", stderr);
      abort();
    }
}

inline void launch(dim grid, int count, std::function<void()> kernel) {
  threads = std::vector<Thread>(count);
  body = kernel;
  gridDim = grid;
  blockDim = {count, 1, 1};
  for (int z = 0; z < grid.z; z++)
    for (int y = 0; y < grid.y; y++)
      for (int x = 0; x < grid.x; x++) {
        blockIdx = {x, y, z};
        run_block(count);
      }
}

// Operations of a warp. Lanes give up to eight words.

static unsigned words[32][32][8];
inline unsigned (&warp_words())[32][8] { return words[threadIdx.x >> 5]; }
inline int lane() { return threadIdx.x & 31; }
template <class T>
T from_lane(T v, int which) {
  static_assert(sizeof(T) == 4);
  memcpy(warp_words()[lane()], &v, 4);
  __syncwarp();
  T found;
  memcpy(&found, warp_words()[which], 4);
  __syncwarp();
  return found;
}
template <class T> T __shfl_sync(unsigned, T v, int which) { return from_lane(v, which & 31); }
template <class T> T __shfl_xor_sync(unsigned, T v, int bit) { return from_lane(v, lane() ^ bit); }
template <class T> T __shfl_up_sync(unsigned, T v, int n) { return from_lane(v, lane() < n ? lane() : lane() - n); }
template <class T> T __shfl_down_sync(unsigned, T v, int n) { return from_lane(v, lane() + n < 32 ? lane() + n : lane()); }
inline unsigned __ballot_sync(unsigned, bool v) {
  warp_words()[lane()][0] = v;
  __syncwarp();
  unsigned bits = 0;
  for (int i = 0; i < 32; i++) bits |= warp_words()[i][0] << i;
  __syncwarp();
  return bits;
}

// Numbers.

template <class T> T atomicAdd(T* p, T v) { T old = *p; *p += v; return old; }
template <class T> T atomicMax(T* p, T v) { T old = *p; *p = max(old, v); return old; }
template <class T> T atomicMin(T* p, T v) { T old = *p; *p = min(old, v); return old; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(unsigned v) { return __builtin_ffs(v); }
inline int __float_as_int(float v) { int bits; memcpy(&bits, &v, 4); return bits; }
inline float __int_as_float(int v) { float f; memcpy(&f, &v, 4); return f; }
inline int __float2int_rn(float v) { return (int)rintf(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float sinpif(float v) { return (float)sin(M_PI * v); }
inline float cospif(float v) { return (float)cos(M_PI * v); }
inline void sincospif(float v, float* s, float* c) { *s = sinpif(v), *c = cospif(v); }

// What is written in PTX.

inline unsigned short half_bits(_Float16 v) { unsigned short bits; memcpy(&bits, &v, 2); return bits; }
inline double half_at(unsigned word, int place) {
  unsigned short bits = word >> 16 * place;
  _Float16 v;
  memcpy(&v, &bits, 2);
  return v;
}
inline unsigned pack(float low, float high) { return half_bits(low) | (unsigned)half_bits(high) << 16; }
inline float2 unpack(unsigned v) { return {(float)half_at(v, 0), (float)half_at(v, 1)}; }
inline unsigned rounded_once(double low, double high) {
  return half_bits((_Float16)low) | (unsigned)half_bits((_Float16)high) << 16;
}
inline unsigned product(unsigned a, unsigned b) {
  return rounded_once(half_at(a, 0) * half_at(b, 0), half_at(a, 1) * half_at(b, 1));
}
inline unsigned remainder(unsigned a, unsigned b, unsigned c) {
  return rounded_once(half_at(a, 0) * half_at(b, 0) - half_at(c, 0), half_at(a, 1) * half_at(b, 1) - half_at(c, 1));
}
inline unsigned cut(unsigned v, unsigned least) {
  double low = half_at(v, 0), high = half_at(v, 1);
  return rounded_once(low * (low >= half_at(least, 0)), high * (high >= half_at(least, 1)));
}
inline float not_subnormal(float v) { return fabsf(v) < 1.17549435e-38f ? 0.f : v; }
inline float exp2_fast(float v) { return not_subnormal(exp2f(v)); }
inline float root(float v) { return sqrtf(v); }
inline void add2(float* p, float a, float b) { p[0] += a, p[1] += b; }
inline void add4(float* p, float a, float b, float c, float d) { add2(p, a, b), add2(p + 2, c, d); }

// Addresses of shared memory have 32 bits: all of it is static, so that the others are always the same.
inline unsigned address(const void* p) { return (unsigned)(uintptr_t)p; }
inline const unsigned short* shared_at(unsigned p) {
  return (const unsigned short*)(((uintptr_t)dynamic_shared & ~0xffffffffull) | p);
}
inline void load_matrices(unsigned* to, unsigned p, int count, bool transposed) {
  auto& given = warp_words();
  if (lane() < 8 * count && p % 16) {
    fputs("ldmatrix reads 16 bytes at a multiple of 16\n", stderr);
    abort();
  }
  given[lane()][0] = p;
  __syncwarp();
  int r = lane() >> 2, c = 2 * (lane() & 3);
  for (int m = 0; m < count; m++) {
    auto at = [&](int row, int column) { return (unsigned)shared_at(given[8 * m + row][0])[column]; };
    to[m] = transposed ? at(c, r) | at(c + 1, r) << 16 : at(r, c) | at(r, c + 1) << 16;
  }
  __syncwarp();
}
inline void load4(unsigned* to, unsigned p) { load_matrices(to, p, 4, false); }
inline void load4t(unsigned* to, unsigned p) { load_matrices(to, p, 4, true); }
inline void load2t(unsigned* to, unsigned p) { load_matrices(to, p, 2, true); }

inline void multiply(float* c, const unsigned* a, const unsigned* b, int depth) {
  auto& given = warp_words();
  int own = lane(), steps = depth / 8;
  for (int i = 0; i < 2 * steps; i++) given[own][i] = a[i];
  for (int i = 0; i < steps; i++) given[own][4 + i] = b[i];
  __syncwarp();
  for (int o = 0; o < 4; o++) {
    int row = (own >> 2) + 8 * (o >> 1), column = 2 * (own & 3) + (o & 1);
    double sum = c[o];
    for (int k = 0; k < depth; k++) {
      unsigned left = given[(row & 7) * 4 + (k & 7) / 2][(row >> 3) + 2 * (k >> 3)];
      unsigned right = given[column * 4 + (k & 7) / 2][4 + (k >> 3)];
      sum += half_at(left, k & 1) * half_at(right, k & 1);
    }
    c[o] = (float)sum;
  }
  __syncwarp();
}
inline void mma(float* c, const unsigned* a, unsigned b0, unsigned b1) {
  unsigned b[2] = {b0, b1};
  multiply(c, a, b, 16);
}
inline void mma8(float* c, unsigned a0, unsigned a1, unsigned b0) {
  unsigned a[2] = {a0, a1};
  multiply(c, a, &b0, 8);
}
