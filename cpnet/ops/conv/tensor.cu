// Convolution forward, and its gradient with respect to the input, on tensor cores: the formulas of definition.py, arrays C H W N.
//
//   result[m, pixel, n] = Σ weights[k, m] · source[c, the pixel that the tap reads, n]      over k = (c, tap)
//
//                      result  m        source  c        row of the source that window row r reads for row p of the result
//   forward            y       filter   x       channel  p · stride − before + r
//   input gradient     d_x     channel  d_y     filter   (p + before − r) / stride, where that is whole
//
// So one kernel does both: row = (p · scale + offset + r · direction) / divisor. `weights` is (groups, K, pitch), in the order
// in which tiles are read: k slowest, maps fastest. That is a copy with zeros up to a whole number of tiles (conv_pack), or
// the weights themselves where they lie so: the input gradient of a window of one pixel, pitch = M.
//
// A block owns ROWS maps of one group by COLUMNS = PIXELS × IMAGES results: PIXELS successive pixels, IMAGES images of
// each. First it lists the taps that any of its pixels needs, and which pixel of the source each of them reads: taps that
// fall into the padding, or between the pixels of a strided gradient, are left out for the whole block. One stage ahead of
// the copies, a thread for each k and pixel goes on to the next (channel, tap), without a division, and notes where its row
// of the weights and its pixel of the source lie. So in the loop an address is one number from shared memory, for any stride,
// padding, window and number of channels: with the 363 k of conv1, 3 · 11 · 11, as with the 9216 of fc6.
// Where results are few (one pixel: a fully-connected layer; small batches) the sum over k is shared out over parts, gridDim.z
// = parts × groups: each block then writes its part's sums, (part, group, m, pixel, n), and conv_sum_parts adds them up.
// It reads (ROWS + COLUMNS) · K numbers, nearly all from L2, and writes ROWS · COLUMNS. A stage of 16 k with 128 × 128 is
// 16 KiB for 524,288 FLOP, 32 FLOP a byte; 128 × 256 does 43.
// A warp owns TM × TN results. Rows of the tiles lie 8 numbers (mod 32) apart in shared memory, so that the 4 k × 8 columns
// that its lanes read fall into 32 different banks.
// Which result a register is: sums[i / 2][j][i % 2 * 2 + e] of lane 4g + t is that of the warp's row lane_row(i, g) and of its
// column 8j + 2t + e, e being 0 or 1.
// Grid: (runs of PIXELS pixels × runs of IMAGES images, runs of ROWS maps, parts × groups).
#define COLUMNS (PIXELS * IMAGES)
#include "mma.cuh"
#include "share.cuh"

#define BK 16
#define LEFT_ROW (ROWS + 8)
#define RIGHT_ROW (COLUMNS + 8)
#define TILES (BK * (LEFT_ROW + RIGHT_ROW))
#define SLOT (TILES + BK * (1 + PIXELS))  // behind a stage's tiles, of each k: its row of the weights, its pixels of the source
static_assert(LEFT_ROW % 16 == 8 && RIGHT_ROW % 16 == 8, "rows 8 or 24 banks apart: no two lanes of a load meet in a bank");
static_assert(IMAGES % 8 == 0 && COLUMNS % VECTOR == 0, "a thread's neighbouring columns are images of one pixel");
static_assert(WEIGHTS == 1 || WEIGHTS == 4, "weights that a thread copies at once");
static_assert(BK * PIXELS <= THREADS, "a thread for each k of a stage and each pixel");

// How pixels of the result and window rows lead to rows of the source, and the same for columns.
struct Map {
  int scale, offset, direction, divisor;

  // The row, of `size`, that window row r reads for row p of the result; negative where there is none.
  __device__ __forceinline__ int row(int p, int r, int size) const {
    const int times = p * scale + offset + r * direction, at = times / divisor;
    return at < size && times % divisor == 0 ? at : -1;
  }
};

// A lane's rows of a warp's tile, i = 0 ... TM / 8 − 1, are dealt out in pairs, 2g and 2g + 1 of each 16, which one 8-byte load brings.
__device__ __forceinline__ int lane_row(int i, int g) { return i / 2 * 16 + 2 * g + i % 2; }

extern "C" __global__ void __launch_bounds__(THREADS)
conv_product(const float* __restrict__ source, const float* __restrict__ weights, const float* __restrict__ bias,
             float* __restrict__ result, bool biased, bool relu, int C, int H, int W, int N, int M, int P, int Q, int R, int S,
             int scale, int offset, int direction, int divisor, int groups, int pitch) {
  extern __shared__ __align__(16) float shared[];
  int* const taps = (int*)(shared + STAGES * SLOT);  // those that are needed, in order
  int* const read = taps + R * S;                    // [PIXELS][R · S]: the pixel that a tap reads; -1 where there is none
  __shared__ int tap_count;

  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
  const int runs = (N + IMAGES - 1) / IMAGES, first_pixel = blockIdx.x / runs * PIXELS, n0 = blockIdx.x % runs * IMAGES;
  const int m0 = blockIdx.y * ROWS, group = blockIdx.z % groups;
  const Map map = {scale, offset, direction, divisor};

  for (int i = thread; i < PIXELS * R * S; i += THREADS) {
    const int pixel = first_pixel + i / (R * S), tap = i % (R * S);
    const int h = map.row(pixel / Q, tap / S, H), w = map.row(pixel % Q, tap % S, W);
    read[i] = min(h, w) >= 0 ? h * W + w : -1;
  }
  __syncthreads();
  if (warp == 0) {
    int count = 0;
    for (int first = 0; first < R * S; first += 32) {
      const int tap = first + lane;
      bool needed = false;
      if (tap < R * S)
        for (int j = 0; j < PIXELS; j++) needed = needed || read[j * R * S + tap] >= 0;
      const unsigned lanes = __ballot_sync(~0u, needed);
      if (needed) taps[count + __popc(lanes & ((1u << lane) - 1))] = tap;
      count += __popc(lanes);
    }
    if (lane == 0) tap_count = count;
  }
  __syncthreads();
  const int most = max(tap_count, 1), parts = gridDim.z / groups;
  const Share share = share_of((C * tap_count + BK - 1) / BK, blockIdx.z / groups, parts);
  int c = (share.first * BK + thread % BK) / most, tap = (share.first * BK + thread % BK) % most;  // of the next stage to plan
  auto plan = [&](int stage) {
    if (thread >= BK * PIXELS) return;
    const int j = thread / BK, channel = group * C + c, pixel = read[j * R * S + taps[tap]];
    int* const place = (int*)(shared + stage % STAGES * SLOT + TILES) + thread % BK;
    if (j == 0) place[0] = c < C ? channel * R * S + taps[tap] : -1;  // beyond the last
    place[BK * (1 + j)] = c < C && pixel >= 0 ? channel * H * W + pixel : -1;
    tap += BK % most;
    const bool next = tap >= most;
    if (next) tap -= most;
    c += BK / most + next;
  };
  for (int stage = 0; stage < min(STAGES, share.count); stage++) plan(stage);
  __syncthreads();

  auto load = [&](int stage, float* slot) {
    constexpr int LEFT_RUNS = ROWS / WEIGHTS, RIGHT_RUNS = COLUMNS / VECTOR;
    static_assert(BK * RIGHT_RUNS % THREADS == 0, "every thread copies as much of the right tile");
    const int* const places = (int*)(slot + TILES);
#pragma unroll
    for (int i = 0; i < BK * LEFT_RUNS; i += THREADS) {
      const int k = (i + thread) / LEFT_RUNS, m = (i + thread) % LEFT_RUNS * WEIGHTS;
      if (BK * LEFT_RUNS % THREADS && k >= BK) break;  // where the left tile does not come out even
      const int row = places[k];
      const bool inside = row >= 0 && m0 + m < pitch;
      copy<WEIGHTS>(slot + k * LEFT_ROW + m, weights + (inside ? (size_t)row * pitch + m0 + m : 0), inside);
    }
#pragma unroll
    for (int i = 0; i < BK * RIGHT_RUNS; i += THREADS) {
      const int k = (i + thread) / RIGHT_RUNS, column = (i + thread) % RIGHT_RUNS * VECTOR, n = n0 + column % IMAGES;
      const int pixel = places[BK * (1 + column / IMAGES) + k];
      const bool inside = pixel >= 0 && n < N;
      copy<VECTOR>(slot + BK * LEFT_ROW + k * RIGHT_ROW + column, source + (inside ? (size_t)pixel * N + n : 0), inside);
    }
    // Of the first stages all is known. What lay in the slot's places has been read before the last barrier.
    if (stage >= STAGES - 1) plan(stage + 1);
  };
  const int row0 = warp % (ROWS / TM) * TM, column0 = warp / (ROWS / TM) * TN;  // the warp's in the tile
  auto fragments = [&](const float* slot, int k, Left& left, Right& right) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float* from = slot + (k + 4 * h + t) * LEFT_ROW + row0;
#pragma unroll
      for (int i = 0; i < TM / 8; i += 2) {
        const float2 two = *(const float2*)(from + lane_row(i, g));
        left[h][i] = two.x;
        left[h][i + 1] = two.y;
      }
      from = slot + BK * LEFT_ROW + (k + 4 * h + t) * RIGHT_ROW + column0;
#pragma unroll
      for (int j = 0; j < TN / 8; j++) right[h][j] = from[8 * j + g];
    }
  };
  Sums sums = {};
  add_stages<BK, SLOT>(sums, shared, share.count, load, fragments);

#pragma unroll
  for (int i = 0; i < TM / 8; i++) {
    const int m = m0 + row0 + lane_row(i, g);
    if (m >= M) continue;
    const float add = biased ? bias[group * M + m] : 0.f;  // and there is one part
#pragma unroll
    for (int j = 0; j < TN / 8; j++) {
      const int column = column0 + 8 * j + 2 * t, pixel = first_pixel + column / IMAGES, n = n0 + column % IMAGES;
      float2 two = {sums[i / 2][j][i % 2 * 2] + add, sums[i / 2][j][i % 2 * 2 + 1] + add};
      if (relu) two = {two.x <= 0.f ? 0.f : two.x, two.y <= 0.f ? 0.f : two.y};  // so that NaN stays NaN
      if (pixel >= P * Q || n >= N) continue;
      float* to = result + ((size_t)(blockIdx.z * M + m) * P * Q + pixel) * N + n;
      if (VECTOR == 4) {  // N is a multiple of 4
        *(float2*)to = two;
      } else {
        to[0] = two.x;
        if (n + 1 < N) to[1] = two.y;
      }
    }
  }
}
