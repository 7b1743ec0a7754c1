// The convolution's gradients with respect to weights and bias: the formulas of conv.py, arrays C H W N.
#include "conv_tile.cuh"

// What a column, (tap, channel), reads at p = q = 0: the pixel of x and its row and column, be they in the padding.
struct Place { int pixel, down, across; };

// The gradient of the weights, in parts that conv_sum_parts adds up:
//
//   parts[part, f, tap, c] = Σ d_y[f, p, q, n] · x[c, p·stride + r − before, q·stride + s − before, n]
//
// over all images n and the part's share of the pixels (p, q); tap = r·S + s. As a matrix product: a row for each filter,
// a column for each (tap, channel), and the sum runs along (p, q, n).
// A block owns BM filters and BN columns in one part of one group; a thread TM × TN of them. It reads BM rows of d_y and
// BN of x over the pixels of its part, and writes its BM · BN sums once. Sharing out the pixels gives a GPU enough blocks
// where filters are few and pixels many; how many parts is decided in Python by the layer's shape, so the order of
// addition is fixed too.
// Geometry: the images, along which is summed, are innermost in both operands. Two threads fetch 8 of them from a row,
// one 32-byte sector, and store them transposed. Columns go tap by tap, so that most blocks see few taps: pixels where all
// of those fall into the padding are left out. At the others a column whose tap falls into it is zero.
// Grid: (runs of BM filters × runs of BN columns, parts, groups); C and F are those of one group.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
conv_weight_parts(const real* __restrict__ x, const real* __restrict__ d_y, real* __restrict__ parts,
                  int C, int H, int W, int N, int F, int R, int S, int P, int Q, int stride, int before) {
  __shared__ __align__(16) Left left[2];
  __shared__ __align__(16) Right right[2];
  __shared__ Place places[BN];
  const int thread = threadIdx.x, runs = (F + BM - 1) / BM, columns = R * S * C;
  const int f0 = blockIdx.x % runs * BM, column0 = blockIdx.x / runs * BN;
  const size_t g = blockIdx.z;
  x += g * C * H * W * N;
  d_y += g * F * P * Q * N;

  // The rectangle of pixels (p, q) at which some tap of this block's columns falls into the image, and the part's share.
  const int first_tap = column0 / C, last_tap = (min(column0 + BN, columns) - 1) / C;
  const int r_min = first_tap / S, r_max = last_tap / S;
  const int s_min = r_min == r_max ? first_tap % S : 0, s_max = r_min == r_max ? last_tap % S : S - 1;
  const int p_first = max(0, before - r_max + stride - 1) / stride, q_first = max(0, before - s_max + stride - 1) / stride;
  const int p_end = min(P, max(0, H - 1 + before - r_min + stride) / stride);
  const int q_end = min(Q, max(0, W - 1 + before - s_min + stride) / stride);
  const int width = max(1, q_end - q_first), pixels = max(0, p_end - p_first) * max(0, q_end - q_first);
  const int first = (long long)pixels * blockIdx.y / gridDim.y, end = (long long)pixels * (blockIdx.y + 1) / gridDim.y;
  const int steps = (end - first) * ((N + BK - 1) / BK);

  // Of the left tile this thread fetches 4 images of one filter; of the right one, of columns `row`, `row + ROWS` ...
  constexpr int ROWS = THREADS / 2, FETCHES = (BN + ROWS - 1) / ROWS;
  static_assert(BK == 8 && ROWS == BM, "two threads a row, four images each");
  const int row = thread / 2, k = thread % 2 * 4;
  const bool whole = by_fours(x, N) && by_fours(d_y, N);
  for (int i = thread; i < BN; i += THREADS) {
    const int column = column0 + i, tap = column / C, down = tap / S - before, across = tap % S - before;
    places[i] = {column % C * H * W + down * W + across, down, across};  // past the last: a tap too many, a column not stored
  }
  __syncthreads();

  int fetched = 0, p = p_first + first / width, q = q_first + first % width, n0 = 0;  // the next to fetch
  Four d_outputs, inputs[FETCHES];
  auto fetch = [&]() {
    if (fetched >= steps) return;
    d_outputs = {};
    if (f0 + row < F)
      d_outputs = load_four(d_y + ((size_t)(f0 + row) * P * Q + p * Q + q) * N + n0 + k, N - n0 - k, whole);
#pragma unroll
    for (int i = 0; i < FETCHES; i++) {
      inputs[i] = {};
      if (row + i * ROWS >= BN) continue;
      const Place place = places[row + i * ROWS];
      const unsigned h = p * stride + place.down, w = q * stride + place.across;  // before the first: very large
      const size_t pixel = place.pixel + p * stride * W + q * stride;
      if (h < H && w < W) inputs[i] = load_four(x + pixel * N + n0 + k, N - n0 - k, whole);
    }
    fetched++;
    n0 += BK;
    if (n0 >= N) {
      n0 = 0;
      q++;
      if (q >= q_end) {
        q = q_first;
        p++;
      }
    }
  };

  real sum[TM][TN] = {};
  fetch();
  for (int step = 0; step < steps; step++) {
    const int buffer = step % 2;  // last read two steps ago, before the barrier of the step between
#pragma unroll
    for (int j = 0; j < 4; j++) left[buffer][k + j][row] = d_outputs.v[j];
#pragma unroll
    for (int i = 0; i < FETCHES; i++)
      if (row + i * ROWS < BN)
#pragma unroll
        for (int j = 0; j < 4; j++) right[buffer][k + j][row + i * ROWS] = inputs[i].v[j];
    __syncthreads();
    fetch();
    multiply(sum, left[buffer], right[buffer]);
  }

  real* part = parts + (blockIdx.y * (size_t)gridDim.z + g) * F * columns;
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) {
      const int f = f0 + tile_row(i), column = column0 + tile_column(j);
      if (f < F && column < columns) part[(size_t)f * columns + column] = sum[i][j];
    }
}

// d_w[f, c, tap] = Σ parts[part, f, tap, c] over the parts, in order. A thread owns one weight, in the order of the parts:
// it reads them coalesced, 4 bytes a part, and writes its 4 bytes to where they belong. F counts all groups' filters.
extern "C" __global__ void conv_sum_parts(const real* __restrict__ parts, real* __restrict__ d_w,
                                          int count, int F, int C, int taps) {
  const size_t weights = (size_t)F * C * taps, at = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
  if (at >= weights) return;
  real sum = 0;
  for (int part = 0; part < count; part++) sum += parts[part * weights + at];
  const size_t f = at / (C * taps);
  const int column = at % (C * taps), tap = column / C, c = column % C;
  d_w[(f * C + c) * taps + tap] = sum;
}

// d_b[f] = Σ d_y[f, p, q, n] over p, q, n. A block owns one filter and reads its `count` = P · Q · N numbers, which lie in
// a row, coalesced; each of its BIAS_THREADS threads adds up every BIAS_THREADS-th, and then they add up theirs in pairs.
extern "C" __global__ void __launch_bounds__(BIAS_THREADS)
conv_bias_gradient(const real* __restrict__ d_y, real* __restrict__ d_b, long long count) {
  static_assert((BIAS_THREADS & (BIAS_THREADS - 1)) == 0, "the threads' sums are added in pairs");
  __shared__ real sums[BIAS_THREADS];
  const int thread = threadIdx.x;
  const real* row = d_y + blockIdx.x * count;
  real sum = 0;
#pragma unroll 8
  for (long long i = thread; i < count; i += BIAS_THREADS) sum += row[i];
  sums[thread] = sum;
  for (int others = BIAS_THREADS / 2; others > 0; others /= 2) {
    __syncthreads();
    if (thread < others) sums[thread] += sums[thread + others];
  }
  if (thread == 0) d_b[blockIdx.x] = sums[0];
}
