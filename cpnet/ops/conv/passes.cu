// What surrounds the convolution's matrix products: one pass over memory each.
#include "../elementwise.cuh"

#define TILE 32

// to[b, j, i] = from[b, i, j] for i below `rows`, and zeros up to `padded`: the weights in the order in which conv_product
// reads them. A block of TILE × 8 threads owns TILE × TILE numbers, which it reads by rows and writes by columns, both
// coalesced; in between they lie in shared memory, one column wider so that a column touches all banks.
// Grid: (tiles across `columns`, tiles down `padded`, b).
extern "C" __global__ void __launch_bounds__(TILE * 8)
conv_pack(const real* __restrict__ from, real* __restrict__ to, int rows, int columns, int padded) {
  __shared__ real tile[TILE][TILE + 1];
  const int i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE;
  const size_t first = (size_t)blockIdx.z * columns;
#pragma unroll
  for (int k = threadIdx.y; k < TILE; k += 8) {
    const int i = i0 + k, j = j0 + threadIdx.x;
    tile[k][threadIdx.x] = i < rows && j < columns ? from[first * rows + (size_t)i * columns + j] : 0;
  }
  __syncthreads();
#pragma unroll
  for (int k = threadIdx.y; k < TILE; k += 8) {
    const int i = i0 + threadIdx.x, j = j0 + k;
    if (i < padded && j < columns) to[(first + j) * padded + i] = tile[threadIdx.x][k];
  }
}

// total[f, c, tap] = Σ parts[part, f, tap, c] over the parts, in order; + bias[f] if `biased`; max(0, that) if `relu`.
// So for d_w; for d_b, with C = taps = 1; for y and d_x, with C the numbers of a map, taps = 1. A thread owns one number, in
// the order of the parts: it reads them coalesced, 4 bytes a part, and writes its 4 bytes to where they belong. F counts all
// groups' filters, or maps; there are fewer than 2³¹ numbers.
extern "C" __global__ void __launch_bounds__(THREADS)
conv_sum_parts(const real* __restrict__ parts, const real* __restrict__ bias, real* __restrict__ total, bool biased, bool relu,
               int count, int F, int C, int taps) {
  const unsigned numbers = (unsigned)F * C * taps, at = blockIdx.x * THREADS + threadIdx.x;
  if (at >= numbers) return;
  real sum = 0;
  for (int part = 0; part < count; part++) sum += parts[part * (size_t)numbers + at];
  const unsigned f = at / (C * taps), column = at % (C * taps), tap = column / C, c = column % C;
  if (biased) sum += bias[f];
  if (relu && sum <= 0.f) sum = 0;  // so that NaN stays NaN
  total[((size_t)f * C + c) * taps + tap] = sum;
}

// parts[part, f] = Σ d_y[f, p, q, n] over the part's share of p, q, n; conv_sum_parts adds them up if there are several. With `masked`, y being
// the output after ReLU, d_y becomes 0 where y is not above 0 first: one pass for both.
// A block owns one part of one filter, whose `count` = P · Q · N numbers lie in a row, coalesced, 16 bytes a thread at a
// time; each thread adds up its own, and then they add up theirs in pairs. Grid: (filters, parts).
extern "C" __global__ void __launch_bounds__(THREADS)
conv_bias_gradient(real* d_y, const real* __restrict__ y, real* __restrict__ parts, bool masked, long long count) {
  static_assert((THREADS & (THREADS - 1)) == 0, "the threads' sums are added in pairs");
  __shared__ real sums[THREADS];
  const int thread = threadIdx.x;
  d_y += blockIdx.x * count;
  y += blockIdx.x * count;
  real sum = 0;
  for (long long i = ((long long)blockIdx.y * THREADS + thread) * WIDTH; i < count; i += (long long)gridDim.y * THREADS * WIDTH) {
    Pack d = load(d_y, i, count);
    if (masked) {
      const Pack a = load(y, i, count);
#pragma unroll
      for (int j = 0; j < WIDTH; j++) d.v[j] = a.v[j] > 0.f ? d.v[j] : 0;
      store(d, d_y, i, count);
    }
#pragma unroll
    for (int j = 0; j < WIDTH; j++) sum += d.v[j];
  }
  sums[thread] = sum;
  for (int others = THREADS / 2; others > 0; others /= 2) {
    __syncthreads();
    if (thread < others) sums[thread] += sums[thread + others];
  }
  if (thread == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = sums[0];
}
