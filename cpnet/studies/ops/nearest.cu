// Keys of distances, and the smallest of them; nearest.py has the formulas.
//
// Streaming 20 GB of vectors to the device takes far longer than anything here, so these kernels are simple: the keys go to
// memory, where `smallest` reads a query's row of them 64 times, from the cache.
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "a block is whole warps, at most 1024 threads");
typedef unsigned long long Key;

// A warp owns a vector: its lanes read 128 bytes at a time, then add up what they have in a fixed order.
extern "C" __global__ void __launch_bounds__(THREADS)
square_sums(const float* __restrict__ vectors, float* __restrict__ sums, int count, int width) {
  const int n = (blockIdx.x * THREADS + threadIdx.x) / 32;
  if (n >= count) return;
  const float* vector = vectors + (long long)n * width;
  float sum = 0;
  for (int d = threadIdx.x % 32; d < width; d += 32) sum += vector[d] * vector[d];
  for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, apart);
  if (threadIdx.x % 32 == 0) sums[n] = sum;
}

// A block owns THREADS vectors and one query, a thread one of the products (Q, N).
extern "C" __global__ void __launch_bounds__(THREADS) euclidean_keys(
    const float* __restrict__ products, const float* __restrict__ query_squares, const float* __restrict__ squares,
    unsigned long long* __restrict__ keys, int count, long long first) {
  const int n = blockIdx.x * THREADS + threadIdx.x;
  if (n >= count) return;
  const long long i = (long long)blockIdx.y * count + n;
  const float squared = query_squares[blockIdx.y] + squares[n] - 2 * products[i];
  keys[i] = (Key)__float_as_uint(squared < 0 ? 0 : squared) << 32 | (Key)(first + n);
}

// A block owns THREADS codes and one query, a thread one code. Codes (words, N): neighbours read next to each other.
extern "C" __global__ void __launch_bounds__(THREADS) hamming_keys(
    const unsigned long long* __restrict__ queries, const unsigned long long* __restrict__ codes,
    unsigned long long* __restrict__ keys, int count, int words, long long first) {
  const int n = blockIdx.x * THREADS + threadIdx.x;
  if (n >= count) return;
  int bits = 0;
  for (int w = 0; w < words; w++) bits += __popcll(queries[blockIdx.y * words + w] ^ codes[(long long)w * count + n]);
  keys[(long long)blockIdx.y * count + n] = (Key)bits << 32 | (Key)(first + n);
}

// A block owns a query. The k-th smallest key is the largest number that fewer than k keys are below of; it is found bit by
// bit from the highest, counting at each. Then the k keys up to it are put in order by how many of them are smaller, so that
// it does not matter in which order threads found them. Dynamic shared memory: k keys.
extern "C" __global__ void __launch_bounds__(THREADS) smallest(
    const unsigned long long* __restrict__ keys, const unsigned long long* __restrict__ best,
    unsigned long long* __restrict__ chosen, int count, int had, int k) {
  extern __shared__ Key found[];
  __shared__ int below[64], places;
  if (threadIdx.x < 64) below[threadIdx.x] = 0;
  if (threadIdx.x == 0) places = 0;
  __syncthreads();
  keys += (long long)blockIdx.x * count;
  best += (long long)blockIdx.x * had;
  Key largest = 0;
  for (int bit = 63; bit >= 0; bit--) {
    const Key limit = largest | 1ull << bit;
    int own = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) own += keys[i] < limit;
    for (int i = threadIdx.x; i < had; i += THREADS) own += best[i] < limit;
    atomicAdd(&below[bit], own);
    __syncthreads();
    if (below[bit] < k) largest = limit;
  }
  for (int i = threadIdx.x; i < count + had; i += THREADS) {
    const Key key = i < count ? keys[i] : best[i - count];
    if (key <= largest) found[atomicAdd(&places, 1)] = key;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < k; i += THREADS) {
    int rank = 0;
    for (int j = 0; j < k; j++) rank += found[j] < found[i];
    chosen[(long long)blockIdx.x * k + rank] = found[i];
  }
}
