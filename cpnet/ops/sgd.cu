// The update rule; sgd.py has the formula.
//
// A thread owns 16 bytes of w, v and the gradient, a block THREADS · 16 bytes of one parameter (elementwise.cuh). Reads all
// three and writes w and v, once: five times the parameters' bytes, and nothing but memory's speed matters.
#include "elementwise.cuh"

__device__ __forceinline__ void update(real* w, real* v, const real* gradient, long long i, long long count,
                                       real momentum, real rate, real shrink) {
  Pack weight = load(w, i, count), velocity = load(v, i, count);
  const Pack slope = load(gradient, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) {
    velocity.v[j] = momentum * velocity.v[j] - shrink * weight.v[j] - rate * slope.v[j];
    weight.v[j] += velocity.v[j];
  }
  store(velocity, v, i, count);
  store(weight, w, i, count);
}

extern "C" __global__ void __launch_bounds__(THREADS) sgd_update(
    real* w, real* v, const real* __restrict__ gradient, long long count, real momentum, real rate, real shrink) {
  update(w, v, gradient, first_number(), count, momentum, rate, shrink);
}

// All parameters of a flat buffer in one launch. Segment g is `counts[g]` numbers from `starts[g]` on, done by blocks
// first_blocks[g] … first_blocks[g + 1] − 1, with a rate and a shrinkage (decay · rate) of its own. They lie in memory, so
// that a captured launch sees them change. Where *loss is not finite nothing is written.
extern "C" __global__ void __launch_bounds__(THREADS) sgd_update_segments(
    real* w, real* v, const real* __restrict__ gradient, const long long* __restrict__ starts,
    const long long* __restrict__ counts, const long long* __restrict__ first_blocks, const real* __restrict__ rates,
    const real* __restrict__ shrinks, const double* __restrict__ loss, int segments, real momentum) {
  if (!(*loss - *loss == 0)) return;
  int g = 0, end = segments;  // the block's segment is one of g … end − 1; the same search for all threads of the block
  while (end - g > 1) {
    const int middle = (g + end) / 2;
    if (first_blocks[middle] <= blockIdx.x) g = middle; else end = middle;
  }
  const long long i = ((blockIdx.x - first_blocks[g]) * THREADS + threadIdx.x) * WIDTH;
  update(w + starts[g], v + starts[g], gradient + starts[g], i, counts[g], momentum, rates[g], shrinks[g]);
}
