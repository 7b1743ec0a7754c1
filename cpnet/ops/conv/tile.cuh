// What the convolution kernels share: a block's tiles in shared memory, and the product of two of them.
//
// Forward, input gradient and weight gradient are matrix products, (BM, K) by (K, BN) in a block. K goes by BK at a time:
// the threads fetch the next BK columns of the left and rows of the right matrix into registers, multiply what lies in
// shared memory meanwhile, and then store what they fetched into the other one of two buffers, so that one barrier a step
// is enough. A thread adds up TM × TN of the results: for BK · (TM + TN) numbers read from shared memory it does
// BK · TM · TN multiply-adds, 4 for each number where TM = TN = 8, about what shared memory can feed.

#define BK 8
#define THREADS (BM / TM * (BN / TN))
// Blocks an SM, for __launch_bounds__: 16 warps with 128 registers a thread, or 12 with 168, which lower tiles need: their
// threads fetch more each.
#define RESIDENT (sizeof(real) == 4 ? (BM == 128 ? 512 : 384) / THREADS : 1)

static_assert(BM % TM == 0 && BN % TN == 0, "threads cover the tile");
static_assert(TM % 4 == 0 && TN % 4 == 0, "a thread reads its rows and columns four at a time");
static_assert(BM % 16 == 0 && BN % 16 == 0,
              "with 4 more, tile rows lie 4 or 20 banks apart, so that scattered stores meet no bank twice");
static_assert(THREADS == 2 * BM, "loads of the left matrix leave no thread idle");
static_assert(THREADS % (BN / 4) == 0, "a thread loads the same columns each time");
static_assert(THREADS % 32 == 0, "whole warps");

struct __align__(16) Four { real v[4]; };
typedef real Left[BK][BM + 4];
typedef real Right[BK][BN + 4];

// The first `count` of the four numbers at `from`, and zeros. `whole`: addresses are multiples of 16 and counts of 4.
__device__ __forceinline__ Four load_four(const real* from, int count, bool whole) {
  Four four = {};
  if (whole) {
    if (count > 0) four = *(const Four*)from;
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (j < count) four.v[j] = from[j];
  }
  return four;
}

__device__ __forceinline__ void store_four(real* to, const Four& four, int count, bool whole) {
  if (whole) {
    if (count > 0) *(Four*)to = four;
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (j < count) to[j] = four.v[j];
  }
}

// Whether rows of N numbers from here on can be read by fours: the same answer for all threads of a launch.
__device__ __forceinline__ bool by_fours(const real* array, int N) { return N % 4 == 0 && (size_t)array % 16 == 0; }

// A thread's rows and columns of the tile: fours, spread so that neighbouring threads read neighbouring fours.
__device__ __forceinline__ int tile_row(int i) { return threadIdx.x / (BN / TN) * 4 + i / 4 * (BM / TM * 4) + i % 4; }
__device__ __forceinline__ int tile_column(int j) { return threadIdx.x % (BN / TN) * 4 + j / 4 * (BN / TN * 4) + j % 4; }

// sum += left · right, the thread's part of it
__device__ __forceinline__ void multiply(real (&sum)[TM][TN], const Left& left, const Right& right) {
#pragma unroll
  for (int k = 0; k < BK; k++) {
    Four rows[TM / 4], columns[TN / 4];
#pragma unroll
    for (int i = 0; i < TM; i += 4) rows[i / 4] = *(const Four*)&left[k][tile_row(i)];
#pragma unroll
    for (int j = 0; j < TN; j += 4) columns[j / 4] = *(const Four*)&right[k][tile_column(j)];
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
      for (int j = 0; j < TN; j++) sum[i][j] += rows[i / 4].v[i % 4] * columns[j / 4].v[j % 4];
  }
}
