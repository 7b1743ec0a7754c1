// For kernels that do the same to every number: a thread owns WIDTH numbers in a row, 16 bytes, the most that one load
// or store moves; the 32 threads of a warp read 512 bytes on end. Arrays that do not begin at a multiple of 16 bytes (a
// slice of a larger one may) and the last few numbers of an array go one by one.
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "a block is whole warps, at most 1024 threads");

constexpr int WIDTH = 16 / sizeof(real);

struct __align__(16) Pack {
  real v[WIDTH];
};

// The number of this thread's first number.
__device__ __forceinline__ long long first_number() {
  return ((long long)blockIdx.x * THREADS + threadIdx.x) * WIDTH;
}

// from[i …], zeros after the last of `count`.
__device__ __forceinline__ Pack load(const real* from, long long i, long long count) {
  Pack pack;
  if (i + WIDTH <= count && (size_t)(from + i) % 16 == 0) {
    pack = *(const Pack*)(from + i);
  } else {
#pragma unroll
    for (int j = 0; j < WIDTH; j++) pack.v[j] = i + j < count ? from[i + j] : 0;
  }
  return pack;
}

__device__ __forceinline__ void store(const Pack& pack, real* to, long long i, long long count) {
  if (i + WIDTH <= count && (size_t)(to + i) % 16 == 0) {
    *(Pack*)(to + i) = pack;
  } else {
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
      if (i + j < count) to[i + j] = pack.v[j];
    }
  }
}
