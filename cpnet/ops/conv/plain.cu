// Convolution forward, and its gradient with respect to the input: the formulas of definition.py, arrays C H W N.
//
// One kernel body does both, because both are the same product seen from one pixel of the result:
//
//   result[m, pixel, n] = Σ weights[m, c, tap] · source[c, the pixel that this tap reads, n]      over c and taps
//
//                         result  m        source  c        taps of the result's pixel (p, q), or (h, w)
//   conv_forward          y       filter   x       channel  those that fall into the image
//   conv_input_gradient   d_x     channel  d_y     filter   those r, s with which some output pixel read it
//
// A block owns BM maps m, one pixel of one group, and BN images n; a thread TM × TN of them. So which taps there are is
// the same for the whole block: the others are left out, not multiplied by zero, be it for padding or for the stride.
// It reads (BM + BN) · K numbers, K = channels · taps, and writes BM · BN: 64 multiply-adds for each number read where BM
// and BN are 128. Nearly all of it comes from L2: a layer's weights stay there, and neighbouring pixels, whose blocks run
// at the same time, read the same source.
// Where results are few (one pixel: a fully-connected layer; small batches) the sum over k is shared out over parts, gridDim.z
// = parts × groups: each block then writes its part's sums, (part, group, m, pixel, n), and conv_sum_parts adds them up.
// Geometry: the images, innermost in memory, lie along a warp, so that source and result move in whole lines by 16 bytes
// a thread, for any stride, padding and number of channels. K counts taps within a channel, as weights lie in memory:
// 8 threads read 8 neighbours of one filter. Where each k of a step lies is worked out by 8 threads, one step ahead,
// without a division.
// Which result a register is: sum[i][j] of a thread is that of map m0 + tile_row(i), image n0 + tile_column(j) (tile.cuh).
#include "share.cuh"
#include "tile.cuh"

// The taps of one pixel along one axis: elements `first`, `first + step` ... of the filter's window, `count` of them, which
// read rows (or columns) `at`, `at + move` ... of the source.
struct Taps { int count, first, step, at, move; };

// Output row p: window row r reads input row p · stride + r − before, where that is one of `size`.
__device__ __forceinline__ Taps taps_of_output(int p, int size, int window, int stride, int before) {
  const int top = p * stride - before, first = max(0, -top), end = min(window, size - top);
  return {max(0, end - first), first, 1, top + first, 1};
}

// Input row h: window row r was on it for output row (h + before − r) / stride, where that is whole and one of `size`.
__device__ __forceinline__ Taps taps_of_input(int h, int size, int window, int stride, int before) {
  const int reach = h + before, first = max(reach % stride, reach - (size - 1) * stride), last = min(reach, window - 1);
  return {max(0, last - first + stride) / stride, first, stride, (reach - first) / stride, -1};
}

// What a block works on. It lies in shared memory, where it costs the threads no registers: they have none to spare.
struct Product {
  int source, weights, map;                // first: pixel of the source, weight of this group; map of this part and group
  int depth, maps;                         // channels of the source and maps of the result, of a group
  int source_plane, source_width;          // in pixels
  int result_plane, pixel, n0;             // the pixel and the first image of this block's results
  int per_map, per_channel, window_width;  // weights from one map, channel, row of a window to the next
  Taps down, across;
  int next_c, next_i, next_j;              // BK further in the order (channel, tap)
  Share steps;                             // of BK k each: those of this block's part
};

// By one thread, before the others go on.
__device__ __forceinline__ void prepare(Product& of, int groups) {
  if (!of.down.count || !of.across.count) {  // the window lies outside the image
    of.depth = 0;
    of.down.count = of.across.count = 1;
  }
  const int rows = of.down.count, columns = of.across.count;
  of.next_c = BK / (rows * columns);
  of.next_i = BK / columns % rows;
  of.next_j = BK % columns;
  of.steps = share_of((of.depth * rows * columns + BK - 1) / BK, blockIdx.z / groups, gridDim.z / groups);
}

__device__ __forceinline__ void gather(
    const Product& of, const real* __restrict__ source, const real* __restrict__ weights, const real* __restrict__ bias,
    real* __restrict__ result, bool biased, int N) {
  __shared__ __align__(16) Left left[2];
  __shared__ __align__(16) Right right[2];
  __shared__ int2 places[2][BK];  // of each k of a step: its pixel of the source, and its weight among a map's; or -1
  const int thread = threadIdx.x, m0 = blockIdx.y * BM;

  // The first BK threads go through the order (channel c, tap (i, j) of those there are), each BK further in a step.
  const int first = of.steps.first * BK + thread;
  int c = first / (of.down.count * of.across.count);
  int i = first / of.across.count % of.down.count, j = first % of.across.count;
  auto plan = [&](int buffer) {
    if (thread >= BK) return;
    const int pixel = of.source + (of.down.at + i * of.down.move) * of.source_width + of.across.at + j * of.across.move;
    const int tap = of.weights + (of.down.first + i * of.down.step) * of.window_width + of.across.first + j * of.across.step;
    places[buffer][thread] =
        c < of.depth ? make_int2(c * of.source_plane + pixel, c * of.per_channel + tap) : make_int2(-1, -1);
    j += of.next_j;
    const bool next_row = j >= of.across.count;
    if (next_row) j -= of.across.count;
    i += of.next_i + next_row;
    const bool next_channel = i >= of.down.count;
    if (next_channel) i -= of.down.count;
    c += of.next_c + next_channel;
  };

  // Of the left tile a thread fetches one k of maps m, m + MAPS ...; of the right one 4 images of k, k + ROWS ...
  constexpr int MAPS = THREADS / BK, ROWS = THREADS / (BN / 4), FETCHES = (BK + ROWS - 1) / ROWS;
  const int m = m0 + thread / BK, k = thread / (BN / 4), column = thread % (BN / 4) * 4;
  const bool whole = by_fours(source, N) && by_fours(result, N);
  real weight[BM / MAPS];
  Four images[FETCHES];
  auto fetch = [&](int buffer) {  // zeros beyond the last channel
    const int place = places[buffer][thread % BK].y;
#pragma unroll
    for (int i = 0; i < BM / MAPS; i++)
      weight[i] = place >= 0 && m + i * MAPS < of.maps ? weights[(m + i * MAPS) * of.per_map + place] : 0;
    const int n = of.n0 + column;
#pragma unroll
    for (int i = 0; i < FETCHES; i++) {
      const int pixel = k + i * ROWS < BK ? places[buffer][k + i * ROWS].x : -1;
      images[i] = {};
      if (pixel >= 0) images[i] = load_four(source + (size_t)pixel * N + n, N - n, whole);
    }
  };

  real sum[TM][TN] = {};
  const int steps = of.steps.count;
  plan(0);
  __syncthreads();
  fetch(0);
  for (int step = 0; step < steps; step++) {
    const int buffer = step % 2;  // last read two steps ago, before the barrier of the step between; so are its places
    plan(1 - buffer);
#pragma unroll
    for (int i = 0; i < BM / MAPS; i++) left[buffer][thread % BK][thread / BK + i * MAPS] = weight[i];
#pragma unroll
    for (int i = 0; i < FETCHES; i++)
      if (k + i * ROWS < BK) *(Four*)&right[buffer][k + i * ROWS][column] = images[i];
    __syncthreads();
    fetch(1 - buffer);
    multiply(sum, left[buffer], right[buffer]);
  }

#pragma unroll
  for (int i = 0; i < TM; i++) {
    const int map = m0 + tile_row(i);
    if (map >= of.maps) continue;
    const real add = biased ? bias[of.map + map] : 0;
    real* row = result + ((size_t)(of.map + map) * of.result_plane + of.pixel) * N;
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      const int n = of.n0 + tile_column(j);
      Four four;
#pragma unroll
      for (int e = 0; e < 4; e++) four.v[e] = sum[i][j + e] + add;
      store_four(row + n, four, N - n, whole);
    }
  }
}

// Both kernels: grid (pixels of the result × runs of BN images, runs of BM maps, parts × groups); C and F are those of one
// group. With several parts `y` or `d_x` are the parts, and `biased` is false.

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_forward(const real* __restrict__ x, const real* __restrict__ w, const real* __restrict__ b, real* __restrict__ y,
             int biased, int C, int H, int W, int N, int F, int R, int S, int P, int Q, int stride, int before, int groups) {
  __shared__ Product of;
  if (threadIdx.x == 0) {
    const int runs = (N + BN - 1) / BN, pixel = blockIdx.x / runs, n0 = blockIdx.x % runs * BN;
    const int g = blockIdx.z % groups;
    of = {g * C * H * W, g * F * C * R * S, (int)blockIdx.z * F, C, F, H * W, W, P * Q, pixel, n0, C * R * S, R * S, S,
          taps_of_output(pixel / Q, H, R, stride, before), taps_of_output(pixel % Q, W, S, stride, before)};
    prepare(of, groups);
  }
  __syncthreads();
  gather(of, x, w, b, y, biased, N);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_input_gradient(const real* __restrict__ d_y, const real* __restrict__ w, real* __restrict__ d_x,
                    int C, int H, int W, int N, int F, int R, int S, int P, int Q, int stride, int before, int groups) {
  __shared__ Product of;
  if (threadIdx.x == 0) {
    const int runs = (N + BN - 1) / BN, pixel = blockIdx.x / runs, n0 = blockIdx.x % runs * BN;
    const int g = blockIdx.z % groups;
    of = {g * F * P * Q, g * F * C * R * S, (int)blockIdx.z * C, F, C, P * Q, Q, H * W, pixel, n0, R * S, C * R * S, S,
          taps_of_input(pixel / W, P, R, stride, before), taps_of_input(pixel % W, Q, S, stride, before)};
    prepare(of, groups);
  }
  __syncthreads();
  gather(of, d_y, w, w, d_x, false, N);
}
