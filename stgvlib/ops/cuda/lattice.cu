// What a Gaussian does beside the field's MLP: it goes along with a lattice of displacements (trilinear free-form
// deformation, Sederberg & Parry 1986), and it brightens or darkens by a number of its own.
//
//   mu' = mu + lattice(mu, t) + MLP,   rgb' = rgb (1 + FADE_SCALE fade (2 t - 1)) + MLP
//
// lattice_forward   one thread a Gaussian adds both to what the MLP gave.
// lattice_backward  the gradients, before the encoding's is added to that of mu. A lattice point gets those of some 40
//                   Gaussians in each of its cells: eight lanes, one a corner and axis, walk over eight Gaussians and
//                   add to a register while the cell stays the same, which it mostly does: Gaussians lie in Z-order.
// Sums by float atomics have no fixed order: the lattice's gradient varies in the last bits.
// Bytes a Gaussian: 64 forward, 60 backward; lattice points come from L1 and L2.

#define FULL 0xffffffffu

struct Place {
  int cell;            // of its first corner, in points of one time
  int next_x, next_y;  // how far the other corners are, 0 at the far edge
  float fx, fy;
  float scale_x, scale_y;  // cells a px, 0 at the edge of the frame and beyond
};

// Number of the cell below `position` cells, its fraction, and how far the next point is; `points` of the axis.
__device__ __forceinline__ int cell_of(float position, int points, float& fraction, int& next) {
  int cell = min((int)position, max(points - 2, 0));
  fraction = position - cell;
  next = points > 1;
  return cell;
}

__device__ __forceinline__ Place place_of(float x, float y, int rows, int columns, float width, float height) {
  Place p;
  float across = x / width, down = y / height;
  int column = cell_of(fminf(fmaxf(across, 0.f), 1.f) * (columns - 1), columns, p.fx, p.next_x);
  int row = cell_of(fminf(fmaxf(down, 0.f), 1.f) * (rows - 1), rows, p.fy, p.next_y);
  p.cell = row * columns + column;
  p.next_y *= columns;
  p.scale_x = across > 0.f && across < 1.f ? (columns - 1) / width : 0.f;
  p.scale_y = down > 0.f && down < 1.f ? (rows - 1) / height : 0.f;
  return p;
}

// First of the two times that t lies between, and where: the k-th of `times` is at (k + 1) / times.
__device__ __forceinline__ int time_of(float t, int times, float& fraction, int& next) {
  return cell_of(fminf(fmaxf(fmaf(t, (float)times, -1.f), 0.f), (float)(times - 1)), times, fraction, next);
}

__device__ __forceinline__ float2 mix(float2 a, float2 b, float f) {
  return make_float2(fmaf(f, b.x - a.x, a.x), fmaf(f, b.y - a.y, a.y));
}

// The four corners of a cell at a time between two.
__device__ __forceinline__ void corners(const float2* __restrict__ lattice, const Place& p, int later, float ft,
                                        float2 (&c)[4]) {
  int at[4] = {p.cell, p.cell + p.next_x, p.cell + p.next_y, p.cell + p.next_x + p.next_y};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    c[i] = lattice[at[i]];
    if (ft > 0.f) c[i] = mix(c[i], lattice[later + at[i]], ft);
  }
}

// mu [., n, 2], rgb [., n, 3] canonical; lattice [., times, rows, columns, 2], fade [., n] or null; t [G];
// gops [G] or null: of which GoPs those are. new_mu, new_rgb [G, n, .] are added to.
extern "C" __global__ void __launch_bounds__(BLOCK) lattice_forward(
    const float2* __restrict__ mu, const float* __restrict__ rgb, const float2* __restrict__ NULLABLE lattice,
    const float* __restrict__ NULLABLE fade, const float* __restrict__ t, const int* __restrict__ NULLABLE gops,
    float2* __restrict__ new_mu, float* __restrict__ new_rgb, int n, int times, int rows, int columns, float width,
    float height) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.y, p = gops ? gops[g] : g;
  if (i >= n) return;
  ll o = (ll)g * n + i, q = (ll)p * n + i;
  if (lattice) {
    float ft;
    int next, points = rows * columns, k = time_of(t[g], times, ft, next);
    float2 m = mu[q], c[4], moved = new_mu[o];
    Place at = place_of(m.x, m.y, rows, columns, width, height);
    corners(lattice + ((ll)p * times + k) * points, at, next * points, ft, c);
    float2 d = mix(mix(c[0], c[1], at.fx), mix(c[2], c[3], at.fx), at.fy);
    new_mu[o] = make_float2(moved.x + d.x, moved.y + d.y);
  }
  if (fade) {
    float gain = FADE_SCALE * fade[q] * (2.f * t[g] - 1.f);
#pragma unroll
    for (int c = 0; c < 3; c++) new_rgb[3 * o + c] = fmaf(rgb[3 * q + c], gain, new_rgb[3 * o + c]);
  }
}

// grad_mu [G, n, 2] and grad_rgb [G, n, 3] of the deformed Gaussians become those of the canonical ones but for what
// goes through the field; grad_lattice is added to where it is given; grad_fade [G, n] is written.
extern "C" __global__ void __launch_bounds__(BLOCK) lattice_backward(
    const float2* __restrict__ mu, const float* __restrict__ rgb, const float2* __restrict__ NULLABLE lattice,
    const float* __restrict__ NULLABLE fade, const float* __restrict__ t, float2* __restrict__ grad_mu,
    float* __restrict__ grad_rgb, float* __restrict__ NULLABLE grad_lattice, float* __restrict__ NULLABLE grad_fade,
    int n, int times, int rows, int columns, float width, float height) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, g = blockIdx.y, lane = threadIdx.x & 31;
  ll o = (ll)g * n + i;
  if (lattice) {
    float ft;
    int next, points = rows * columns, k = time_of(t[g], times, ft, next);
    ll first = ((ll)g * times + k) * points;
    Place at = {};
    float2 d = make_float2(0.f, 0.f);
    if (i < n) {
      float2 m = mu[o], c[4];
      d = grad_mu[o];
      at = place_of(m.x, m.y, rows, columns, width, height);
      corners(lattice + first, at, next * points, ft, c);
      float2 top = mix(c[0], c[1], at.fx), low = mix(c[2], c[3], at.fx);
      float2 left = mix(c[0], c[2], at.fy), right = mix(c[1], c[3], at.fy);
      float by_x = (right.x - left.x) * d.x + (right.y - left.y) * d.y;
      float by_y = (low.x - top.x) * d.x + (low.y - top.y) * d.y;
      grad_mu[o] = make_float2(fmaf(at.scale_x, by_x, d.x), fmaf(at.scale_y, by_y, d.y));
    }
    if (grad_lattice) {
      int corner = lane & 3, axis = lane >> 2 & 1, target = -1;
      float sum = 0.f;
      auto add = [&]() {
        if (target < 0) return;
        float* to = grad_lattice + 2 * (first + target) + axis;
        atomicAdd(to, (1.f - ft) * sum);
        if (ft > 0.f) atomicAdd(to + 2 * next * points, ft * sum);
      };
      for (int j = 0; j < 8; j++) {
        int from = (lane & 24) + j;
        int cell = __shfl_sync(FULL, at.cell, from), nx = __shfl_sync(FULL, at.next_x, from);
        int ny = __shfl_sync(FULL, at.next_y, from);
        float fx = __shfl_sync(FULL, at.fx, from), fy = __shfl_sync(FULL, at.fy, from);
        float dx = __shfl_sync(FULL, d.x, from), dy = __shfl_sync(FULL, d.y, from);
        int mine = cell + (corner & 1 ? nx : 0) + (corner & 2 ? ny : 0);
        if (mine != target) {
          add();
          target = mine;
          sum = 0.f;
        }
        sum = fmaf((corner & 1 ? fx : 1.f - fx) * (corner & 2 ? fy : 1.f - fy), axis ? dy : dx, sum);
      }
      add();
    }
  }
  if (fade && i < n) {
    float part = FADE_SCALE * (2.f * t[g] - 1.f), sum = 0.f, gain = fmaf(part, fade[o], 1.f);
#pragma unroll
    for (int c = 0; c < 3; c++) {
      float d = grad_rgb[3 * o + c];
      sum = fmaf(rgb[3 * o + c], d, sum);
      grad_rgb[3 * o + c] = d * gain;
    }
    grad_fade[o] = part * sum;
  }
}
