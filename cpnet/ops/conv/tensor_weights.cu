// Convolution's gradient with respect to the weights on tensor cores: the formulas of definition.py, arrays C H W N.
//
//   parts[part, f, tap, c] = Σ d_y[f, p, q, n] · x[c, p·stride + r − before, q·stride + s − before, n]
//
// over all images n and the part's share of the pixels (p, q); conv_sum_parts (passes.cu) adds the parts up in order.
// As a matrix product: a row for each filter, a column for each (tap, channel), and the sum runs along (p, q, n).
// A block owns ROWS filters by COLUMNS columns in one part of one group, a warp TM × TN of them. It reads ROWS rows of d_y
// and COLUMNS of x over the pixels of its part, nearly all from L2, and writes its sums once. A stage of 32 images at one
// pixel with 128 × 128 is 32 KiB for 1,048,576 FLOP, 32 FLOP a byte.
// Geometry: the images, along which is summed, are innermost in both operands, so both tiles are rows of 32 images, one
// line of 128 bytes each, for which the tensor core's own load, ldmatrix, is made: 8 rows of 4 images at a time. Of a row
// the four images v lie where v ^ (row % 8) would, so that those 8 rows fall into different banks.
// The parts make blocks enough where filters are few and pixels many (conv1: 96 filters, 363 columns, 3025 pixels); their
// number goes by the layer's shape, never by the card, for the sake of the bits.
// Which result a register is: sums[i / 2][j][i % 2 * 2 + e] of lane 4g + t is that of the warp's row 8i + g and of its column
// 8j + 2t + e, e being 0 or 1.
// Grid: (runs of ROWS filters × runs of COLUMNS columns, parts, groups); C and F are those of one group.
#include "mma.cuh"
#include "pixels.cuh"

#define BK 32
#define SLOT (BK * (ROWS + COLUMNS))

// Where image i of a row of a tile lies.
__device__ __forceinline__ int at(int row, int i) { return row * BK + (i / 4 ^ row % 8) * 4 + i % 4; }

extern "C" __global__ void __launch_bounds__(THREADS)
conv_weight_parts_tensor(const float* __restrict__ x, const float* __restrict__ d_y, float* __restrict__ parts,
                         int C, int H, int W, int N, int F, int R, int S, int P, int Q, int stride, int before) {
  extern __shared__ __align__(16) float shared[];
  __shared__ Place places[COLUMNS];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
  const int runs = (F + ROWS - 1) / ROWS, columns = R * S * C;
  const int f0 = blockIdx.x % runs * ROWS, first_column = blockIdx.x / runs * COLUMNS;
  const size_t group = blockIdx.z;
  x += group * C * H * W * N;
  d_y += group * F * P * Q * N;

  const Pixels share = pixels_of(first_column, min(first_column + COLUMNS, columns) - 1, C, H, W, S, P, Q, stride, before);
  const int stages = share.count * ((N + BK - 1) / BK);
  // Past the last: a tap too many, of a column that is not stored.
  for (int i = thread; i < COLUMNS; i += THREADS) places[i] = place_of(first_column + i, C, H, W, S, before);
  __syncthreads();

  constexpr int RUNS = BK / VECTOR, AT_ONCE = THREADS / RUNS;  // a row's copies; rows copied at once
  static_assert(THREADS % RUNS == 0, "a thread copies the same images of each of its rows");
  static_assert(ROWS % AT_ONCE == 0 && COLUMNS % AT_ONCE == 0, "every thread copies as many rows");
  const int i = thread % RUNS * VECTOR, row0 = thread / RUNS;
  int p = share.p, q = share.q, n0 = 0;  // of the next stage to load
  auto load = [&](int, float* slot) {
    const bool some = n0 + i < N;
    const float* from = d_y + ((size_t)(f0 + row0) * P * Q + p * Q + q) * N + n0 + i;
#pragma unroll
    for (int k = 0; k < ROWS; k += AT_ONCE) {
      const int row = row0 + k;
      const bool inside = some && f0 + row < F;
      copy<VECTOR>(slot + at(row, i), inside ? from + (size_t)k * P * Q * N : d_y, inside);
    }
    const int down = p * stride, across = q * stride;
#pragma unroll
    for (int k = 0; k < COLUMNS; k += AT_ONCE) {
      const int row = row0 + k;
      const Place place = places[row];
      const unsigned h = down + place.down, w = across + place.across;  // before the first: very large
      const bool inside = some && h < H && w < W;
      const size_t pixel = inside ? place.pixel + down * W + across : 0;
      copy<VECTOR>(slot + ROWS * BK + at(row, i), x + (inside ? pixel * N + n0 + i : 0), inside);
    }
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
  const int warp_row = warp % (ROWS / TM) * TM, warp_column = warp / (ROWS / TM) * TN;  // in the tile
  auto fragments = [&](const float* slot, int k, Left& left, Right& right) {
    float four[4];
#pragma unroll
    for (int i = 0; i < TM / 8; i += 2) {  // matrices: 8 rows, the next 8; the same of the next 4 images
      ldmatrix4(four, slot + at(warp_row + 8 * i + lane % 16, k + lane / 16 * 4));
      left[0][i] = four[0];
      left[0][i + 1] = four[1];
      left[1][i] = four[2];
      left[1][i + 1] = four[3];
    }
#pragma unroll
    for (int j = 0; j < TN / 8; j += 2) {  // matrices: 4 images, the next 4; the same of the next 8 columns
      ldmatrix4(four, slot + ROWS * BK + at(warp_column + 8 * j + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 4));
      right[0][j] = four[0];
      right[1][j] = four[1];
      right[0][j + 1] = four[2];
      right[1][j + 1] = four[3];
    }
  };
  Sums sums = {};
  add_stages<BK, SLOT>(sums, shared, stages, load, fragments);

  float* part = parts + (blockIdx.y * gridDim.z + group) * F * columns;
#pragma unroll
  for (int i = 0; i < TM / 8; i++)
#pragma unroll
    for (int j = 0; j < TN / 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int f = f0 + warp_row + 8 * i + g, column = first_column + warp_column + 8 * j + 2 * t + e;
        if (f < F && column < columns) part[(size_t)f * columns + column] = sums[i / 2][j][i % 2 * 2 + e];
      }
}
