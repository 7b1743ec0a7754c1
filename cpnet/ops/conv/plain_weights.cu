// The convolution's gradient with respect to the weights: the formulas of definition.py, arrays C H W N.
#include "pixels.cuh"
#include "tile.cuh"

// In parts, which conv_sum_parts (passes.cu) adds up:
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
// one 32-byte sector, and store them transposed. Pixels that none of the block's columns needs are left out; at the others a
// column whose tap falls into the padding is zero.
// Which result a register is: sum[i][j] of a thread is that of filter f0 + tile_row(i), column column0 + tile_column(j) (tile.cuh).
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

  const Pixels share = pixels_of(column0, min(column0 + BN, columns) - 1, C, H, W, S, P, Q, stride, before);
  const int steps = share.count * ((N + BK - 1) / BK);

  // Of the left tile this thread fetches 4 images of one filter; of the right one, of columns `row`, `row + ROWS` ...
  constexpr int ROWS = THREADS / 2, FETCHES = (BN + ROWS - 1) / ROWS;
  static_assert(BK == 8 && ROWS == BM, "two threads a row, four images each");
  const int row = thread / 2, k = thread % 2 * 4;
  const bool whole = by_fours(x, N) && by_fours(d_y, N);
  for (int i = thread; i < BN; i += THREADS) places[i] = place_of(column0 + i, C, H, W, S, before);
  // Past the last: a tap too many, of a column that is not stored.
  __syncthreads();

  int fetched = 0, p = share.p, q = share.q, n0 = 0;  // the next to fetch
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
      if (q >= share.q_end) {
        q = share.q_first;
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
