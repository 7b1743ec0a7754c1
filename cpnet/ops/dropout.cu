// Dropout; dropout.py has the definition of the mask and of the generator.
#include "elementwise.cuh"

// Ten rounds of Philox4x32: c becomes four random words.
__device__ __forceinline__ void philox4x32(unsigned (&c)[4], unsigned key0, unsigned key1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const unsigned high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
    const unsigned high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
    c[0] = high1 ^ c[1] ^ key0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ key1;
    c[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// A thread owns the four images of one unit that one call of the generator serves, a block THREADS such fours of a unit.
// It writes a byte a neuron and reads nothing. grid: (blocks of fours, units). `first_four` is first_image / 4;
// image 0 of the mask is at position `begin` of it.
__device__ __forceinline__ void draw(bool* mask, int images, unsigned first_four, int begin, unsigned first_unit,
                                     unsigned layer, unsigned step, unsigned key0, unsigned key1,
                                     unsigned long long threshold) {
  const int four = blockIdx.x * THREADS + threadIdx.x, unit = blockIdx.y;
  unsigned words[4] = {first_four + four, first_unit + unit, layer, step};
  philox4x32(words, key0, key1);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int n = 4 * four + j - begin;
    if (n >= 0 && n < images) mask[(long long)unit * images + n] = (words[j] >= threshold);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) dropout_mask(
    bool* mask, int images, unsigned first_four, int begin, unsigned first_unit, unsigned layer, unsigned step,
    unsigned key0, unsigned key1, unsigned long long threshold) {
  draw(mask, images, first_four, begin, first_unit, layer, step, key0, key1, threshold);
}

// The same with the step in memory, where a captured launch sees it change.
extern "C" __global__ void __launch_bounds__(THREADS) dropout_mask_counted(
    bool* mask, int images, unsigned first_four, int begin, unsigned first_unit, unsigned layer,
    const double* __restrict__ step, unsigned key0, unsigned key1, unsigned long long threshold) {
  draw(mask, images, first_four, begin, first_unit, layer, (unsigned)*step, key0, key1, threshold);
}

// Forward and backward: a block owns THREADS · 16 bytes of x, a thread 16 bytes (elementwise.cuh). Reads x and the mask
// once, writes y once; y may be x.
extern "C" __global__ void __launch_bounds__(THREADS) keep(const real* x, const bool* mask, real* y, long long count) {
  const long long i = first_number();
  Pack a = load(x, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) a.v[j] = i + j < count && mask[i + j] ? a.v[j] : 0;
  store(a, y, i, count);
}

// At test time: y = x · by, the same geometry.
extern "C" __global__ void __launch_bounds__(THREADS) scale(const real* x, real* y, long long count, real by) {
  const long long i = first_number();
  Pack a = load(x, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) a.v[j] *= by;
  store(a, y, i, count);
}
