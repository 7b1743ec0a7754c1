// Local response normalization; lrn.py has the formulas.
//
// A thread owns one pixel of one image in one column and walks through its maps, keeping the maps of the window in
// registers: every number is read once and written once, which is all that memory must do (forward 2, backward 3 times
// the activations' bytes). A block owns THREADS such pixels next to each other, so that each of the walk's loads and
// stores is one run of memory for a warp. grid: (blocks of pixels, columns).
#include "lrn.cuh"

static_assert(THREADS % 32 == 0 && THREADS <= 1024, "a block is whole warps, at most 1024 threads");

extern "C" __global__ void __launch_bounds__(THREADS) lrn_forward(
    const real* __restrict__ x, real* __restrict__ y, int maps, long long pixels, real k, real alpha, real beta) {
  const long long pixel = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (pixel >= pixels) return;
  const long long start = (long long)blockIdx.y * maps * pixels + pixel;
  const Constants constants = {k, alpha, beta};
  real a[WINDOW] = {};  // x[c − HALF … c + HALF]
#pragma unroll 4
  for (int next = 0; next < maps + HALF; next++) {
    push(a, next < maps ? x[start + next * pixels] : 0);
    const int c = next - HALF;
    if (c >= 0) y[start + c * pixels] = normalized(a, constants);
  }
}

// d_x may be d_y: a thread has read d_y of 2 · HALF maps more when it writes d_x of one.
extern "C" __global__ void __launch_bounds__(THREADS) lrn_backward(
    const real* d_y, const real* __restrict__ x, real* d_x, int maps, long long pixels, real k, real alpha, real beta) {
  const long long pixel = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (pixel >= pixels) return;
  const long long start = (long long)blockIdx.y * maps * pixels + pixel;
  const Constants constants = {k, alpha, beta};
  Gradient gradient = {};
#pragma unroll 2
  for (int next = 0; next < maps + 2 * HALF; next++) {
    const bool inside = next < maps;
    const long long at = start + next * pixels;
    const real d = gradient.step(inside ? x[at] : 0, inside ? d_y[at] : 0, constants);
    const int c = next - 2 * HALF;
    if (c >= 0) d_x[start + c * pixels] = d;
  }
}
