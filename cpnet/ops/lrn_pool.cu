// Local response normalization and the max pooling right above it, as one; lrn_pool.py has the definitions.
//
// What lies between the two is as large as the activations, four times what pooling leaves. Here it is never in memory:
// forward reads x and writes y and a byte for each of its numbers, the window's winner; backward reads d_y, the winners
// and x, and writes d_x. A block owns 32 images of TILE×TILE windows: a warp's loads are runs of images, and what windows
// share comes from the multiprocessor's own cache.
// grid: (runs of images · tiles of a row, rows of tiles, columns of the net · parts of their maps). Within a map an int
// counts the numbers, which lrn_pool.py sees to.
#include "lrn.cuh"

static_assert(Z <= 3 && STRIDE <= 2, "a thread has Z² or STRIDE² pixels with some maps of each in registers");

constexpr int OVER = (Z + STRIDE - 1) / STRIDE;  // windows that have a pixel in common, along an axis

// This thread's window (p, q), counted in tiles, and image n.
struct Own {
  int p, q, n;
};

__device__ __forceinline__ Own own(int images) {
  const int runs = (images + IMAGES - 1) / IMAGES, run = blockIdx.x % runs, tile = blockIdx.x / runs;
  return {(int)(blockIdx.y * TILE + threadIdx.z), (int)(tile * TILE + threadIdx.y), (int)(run * IMAGES + threadIdx.x)};
}

// A thread owns one window of one image and walks through a part of its column's maps, of whose Z×Z pixels it keeps the
// maps of the normalization's window. A pixel is normalized by every window that has it, 2¼ on average: that costs less
// than two barriers a map would, at which to wait for what other threads have normalized. Parts: with few windows (13×13)
// there would be too few threads to keep memory busy; each reads 2 · HALF maps more.
extern "C" __global__ void __launch_bounds__(IMAGES * TILE * TILE) lrn_pool_forward(
    const real* __restrict__ x, real* __restrict__ y, unsigned char* __restrict__ winner, int maps, int parts, int height,
    int width, int rows, int cols, int images, real k, real alpha, real beta) {
  const Own at = own(images);
  if (at.p >= rows || at.q >= cols || at.n >= images) return;
  int pixel[Z * Z];  // where the window hangs over, its last pixel again: that never wins
#pragma unroll
  for (int i = 0; i < Z * Z; i++) {
    const int h = min(at.p * STRIDE + i / Z, height - 1), w = min(at.q * STRIDE + i % Z, width - 1);
    pixel[i] = (h * width + w) * images + at.n;
  }
  const int part = blockIdx.z % parts, first = (long long)maps * part / parts, end = (long long)maps * (part + 1) / parts;
  const int size = height * width * images, outputs = rows * cols * images;
  const long long column = (long long)(blockIdx.z / parts) * maps;
  x += (column + first - HALF) * size;
  y += (column + first) * outputs + (at.p * cols + at.q) * images + at.n;
  winner += (column + first) * outputs + (at.p * cols + at.q) * images + at.n;
  const Constants constants = {k, alpha, beta};
  real a[Z * Z][WINDOW] = {};  // x[c − HALF … c + HALF] of every pixel
  for (int next = first - HALF; next < end + HALF; next++, x += size) {
    const bool inside = next >= 0 && next < maps;
#pragma unroll
    for (int i = 0; i < Z * Z; i++) push(a[i], inside ? x[pixel[i]] : 0);
    if (next - HALF < first) continue;
    real largest = 0;
    int place = 0;
#pragma unroll
    for (int i = 0; i < Z * Z; i++) {
      const real b = normalized(a[i], constants);
      if (i == 0 || b > largest || b != b) {  // the first of equal values; NaN is passed on
        largest = b;
        place = i;
      }
    }
    *y = largest;
    *winner = place;
    y += outputs;
    winner += outputs;
  }
}

// A thread owns the STRIDE×STRIDE pixels of one image where a window begins, and walks through its column's maps. The
// gradients of the at most OVER×OVER windows that have them, and who won, it reads once for all its pixels; which of them
// has which pixel where is known to the compiler. A pixel adds them up in a fixed order: no atomics, the same bits always.
extern "C" __global__ void __launch_bounds__(IMAGES * TILE * TILE) lrn_pool_backward(
    const real* __restrict__ d_y, const unsigned char* __restrict__ winner, const real* __restrict__ x,
    real* __restrict__ d_x, int maps, int height, int width, int rows, int cols, int images, bool relu, real k, real alpha,
    real beta) {
  const Own at = own(images);
  const int h0 = at.p * STRIDE, w0 = at.q * STRIDE;
  if (at.n >= images) return;
  if (h0 >= height || w0 >= width) return;  // guard: performance only
  int window[OVER * OVER], pixel[STRIDE * STRIDE];  // where they lie in a map; below 0 what is not there
#pragma unroll
  for (int i = 0; i < OVER * OVER; i++) {
    const int p = at.p - i / OVER, q = at.q - i % OVER;
    window[i] = p < rows && q >= 0 && q < cols ? (p * cols + q) * images + at.n : -1;  // where p is −1, it is below 0, too
  }
#pragma unroll
  for (int j = 0; j < STRIDE * STRIDE; j++) {
    const int h = h0 + j / STRIDE, w = w0 + j % STRIDE;
    pixel[j] = h < height && w < width ? (h * width + w) * images + at.n : -1;
  }
  const int size = height * width * images, outputs = rows * cols * images;
  const long long column = (long long)blockIdx.z * maps;
  d_y += column * outputs;
  winner += column * outputs;
  x += column * size;
  d_x += column * size;
  const Constants constants = {k, alpha, beta};
  Gradient gradient[STRIDE * STRIDE] = {};
  for (int next = 0; next < maps + 2 * HALF; next++, d_y += outputs, winner += outputs, x += size) {
    const bool inside = next < maps, complete = next >= 2 * HALF;
    real a[STRIDE * STRIDE], d[OVER * OVER];  // all loads first: the thread waits once
    int won[OVER * OVER];
#pragma unroll
    for (int i = 0; i < OVER * OVER; i++) {
      const bool there = inside && window[i] >= 0;
      d[i] = there ? d_y[window[i]] : 0;
      won[i] = there ? winner[window[i]] : -1;
    }
#pragma unroll
    for (int j = 0; j < STRIDE * STRIDE; j++) a[j] = inside && pixel[j] >= 0 ? x[pixel[j]] : 0;
#pragma unroll
    for (int j = 0; j < STRIDE * STRIDE; j++) {
      real d_b = 0;
#pragma unroll
      for (int i = OVER * OVER - 1; i >= 0; i--) {
        const int row = j / STRIDE + i / OVER * STRIDE, col = j % STRIDE + i % OVER * STRIDE;  // of the pixel in the window
        if (row >= Z) continue;  // guard: performance only
        if (col < Z && won[i] == row * Z + col) d_b += d[i];
      }
      const real d_a = gradient[j].step(a[j], d_b, constants);
      if (complete && pixel[j] >= 0) d_x[pixel[j]] = relu && !(gradient[j].a[0] > 0.f) ? 0 : d_a;
    }
    if (complete) d_x += size;
  }
}
