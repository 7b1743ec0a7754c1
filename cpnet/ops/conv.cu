// Convolution forward, and its gradient with respect to the input: the formulas of conv.py, arrays C H W N.
//
// One kernel body does both, because both are the same product seen from one pixel of the result:
//
//   result[m, pixel, n] = Σ weights[m, c, tap] · source[c, the pixel that this tap reads, n]      over c and taps
//
//                    result   m        source   c        taps of the result's pixel (p, q), or (h, w)
//   conv_forward     y        filter   x        channel  those that fall into the image
//   conv_input_...   d_x      channel  d_y      filter   those r, s that some output pixel applied to (h, w)
//
// A block owns BM maps m, one pixel of one group, and BN images n; a thread TM × TN of them. So which taps there are is the same
// for the whole block: the others are left out, not multiplied by zero, be it for padding or for the stride.
// It reads BM · K weights and BN · K numbers of the source, K = channels · taps, and writes BM · BN results. All of these
// reads are served by L2: a layer's weights stay in it, and neighbouring pixels, which run at the same time, read the same source.
// Geometry: the images, innermost in memory, lie along a warp, so that source and result move in whole lines by 16 bytes a
// thread, for any stride, padding and number of channels. K counts taps within a channel, as weights lie in memory: 8 threads
// load 8 neighbours of one filter.
#include "conv_tile.cuh"

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

struct Walk {
  Taps down, across;
  int rows, columns, depth, next_c, next_i, next_j;
};

struct Matrices {
  const real *source, *weights, *bias;  // of this group; bias: null where there is none
  real* result;
  int depth, maps;                      // channels of the source, maps of the result
  int source_plane, source_width;       // pixels
  int result_plane, pixel;
  int window_width;                     // S
  int per_map, per_channel;             // weights from one map or channel to the next
};

__device__ __forceinline__ void gather(const Matrices& of, const Taps& down, const Taps& across, int n0, int N) {
  __shared__ __align__(16) Left left[2];
  __shared__ __align__(16) Right right[2];
  __shared__ int2 places[2][BK];  // of each k of a step: its pixel of the source, and its weight, from this block's first
  const int thread = threadIdx.x, m0 = blockIdx.y * BM;

  // The first BK threads go through the order (channel, tap), tap (i, j) of rows × columns, each BK further in a step.
  __shared__ Walk walk;  // in shared memory, where it costs the other threads no registers
  if (thread == 0) {
    const int rows = max(1, down.count), columns = max(1, across.count), depth = down.count && across.count ? of.depth : 0;
    walk = {down, across, rows, columns, depth, BK / (rows * columns), BK / columns % rows, BK % columns};
  }
  __syncthreads();
  int c = thread / (walk.rows * walk.columns), i = thread / walk.columns % walk.rows, j = thread % walk.columns;
  auto plan = [&](int buffer) {
    if (thread >= BK) return;
    const Taps down = walk.down, across = walk.across;
    const int pixel = (down.at + i * down.move) * of.source_width + across.at + j * across.move;
    const int tap = (down.first + i * down.step) * of.window_width + across.first + j * across.step;
    places[buffer][thread] =
        c < walk.depth ? make_int2(c * of.source_plane + pixel, c * of.per_channel + tap) : make_int2(-1, -1);
    const int columns = walk.columns, rows = walk.rows;
    j += walk.next_j;
    i += walk.next_i + (j >= columns);
    c += walk.next_c + (i >= rows);
    if (j >= columns) j -= columns;
    if (i >= rows) i -= rows;
  };

  // Of the left tile a thread fetches one k of maps m, m + MAPS ...; of the right one 4 images of k, k + ROWS ...
  constexpr int MAPS = THREADS / BK, ROWS = THREADS / (BN / 4), FETCHES = (BK + ROWS - 1) / ROWS;
  const int m = m0 + thread / BK, k = thread / (BN / 4), n = n0 + thread % (BN / 4) * 4;
  const bool whole = by_fours(of.source, N) && by_fours(of.result, N);
  real weight[BM / MAPS];
  Four images[FETCHES];
  auto fetch = [&](int buffer) {  // zeros beyond the last channel
    const int place = places[buffer][thread % BK].y;
#pragma unroll
    for (int i = 0; i < BM / MAPS; i++)
      weight[i] = place >= 0 && m + i * MAPS < of.maps ? of.weights[(m + i * MAPS) * of.per_map + place] : 0;
#pragma unroll
    for (int i = 0; i < FETCHES; i++) {
      const int pixel = k + i * ROWS < BK ? places[buffer][k + i * ROWS].x : -1;
      images[i] = {};
      if (pixel >= 0) images[i] = load_four(of.source + (size_t)pixel * N + n, N - n, whole);
    }
  };

  real sum[TM][TN] = {};
  const int steps = (walk.depth * walk.rows * walk.columns + BK - 1) / BK;
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
      if (k + i * ROWS < BK) *(Four*)&right[buffer][k + i * ROWS][n - n0] = images[i];
    __syncthreads();
    fetch(1 - buffer);
    multiply(sum, left[buffer], right[buffer]);
  }

#pragma unroll
  for (int i = 0; i < TM; i++) {
    const int map = m0 + tile_row(i);
    if (map >= of.maps) continue;
    const real bias = of.bias ? of.bias[map] : 0;
    real* row = of.result + ((size_t)map * of.result_plane + of.pixel) * N;
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      const int image = n0 + tile_column(j);
      Four four;
#pragma unroll
      for (int e = 0; e < 4; e++) four.v[e] = sum[i][j + e] + bias;  // ReLU would go here
      store_four(row + image, four, N - image, whole);
    }
  }
}

// Both kernels: grid (pixels of the result × runs of BN images, runs of BM maps, groups); C and F are those of one group.

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_forward(const real* __restrict__ x, const real* __restrict__ w, const real* __restrict__ b, real* __restrict__ y,
             int biased, int C, int H, int W, int N, int F, int R, int S, int P, int Q, int stride, int before) {
  const int runs = (N + BN - 1) / BN, pixel = blockIdx.x / runs;
  const size_t g = blockIdx.z;
  const Matrices of = {x + g * C * H * W * N, w + g * F * C * R * S, biased ? b + g * F : nullptr, y + g * F * P * Q * N,
                       C, F, H * W, W, P * Q, pixel, S, C * R * S, R * S};
  gather(of, taps_of_output(pixel / Q, H, R, stride, before), taps_of_output(pixel % Q, W, S, stride, before),
         blockIdx.x % runs * BN, N);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_input_gradient(const real* __restrict__ d_y, const real* __restrict__ w, real* __restrict__ d_x,
                    int C, int H, int W, int N, int F, int R, int S, int P, int Q, int stride, int before) {
  const int runs = (N + BN - 1) / BN, pixel = blockIdx.x / runs;
  const size_t g = blockIdx.z;
  const Matrices of = {d_y + g * F * P * Q * N, w + g * F * C * R * S, nullptr, d_x + g * C * H * W * N,
                       F, C, P * Q, Q, H * W, pixel, S, R * S, C * R * S};
  gather(of, taps_of_input(pixel / W, P, R, stride, before), taps_of_input(pixel % W, Q, S, stride, before),
         blockIdx.x % runs * BN, N);
}
