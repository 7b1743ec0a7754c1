// Max and average pooling; pool.py has the definitions.
//
// Forward: a block owns THREADS outputs next to each other in one output row (c, p, q·N + n), a thread one of them. For
// a warp every place of the window is a run of images; neighbouring windows overlap, and what they share comes from the
// cache, so memory delivers x once and takes y once. grid: (blocks of a row, rows, channels): one division by N a thread.
// Within a channel an int counts the numbers, which pool.py sees to.
//
// Backward: the same with the pixels of x in place of the outputs. A thread gathers from the windows that contain its
// pixel, at most ceil(Z / STRIDE)² of them, in a fixed order: no atomics, the same bits every time. Memory delivers d_y
// (and for max x and y) once and takes d_x once; max looks at its window's earlier pixels again, in the cache, where its
// own pixel equals the largest.
static_assert(Z >= 1 && STRIDE >= 1, "a window has pixels, and the next one lies elsewhere");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "a block is whole warps, at most 1024 threads");

// Sizes of one axis: pixels and windows.
struct Axis {
  int pixels, windows;
  // The windows first … last contain the pixel `at`.
  __device__ int first(int at) const { return at < Z ? 0 : (at - Z) / STRIDE + 1; }
  __device__ int last(int at) const { return min(at / STRIDE, windows - 1); }
  // The pixels of a window inside the image end here.
  __device__ int end(int window) const { return min(window * STRIDE + Z, pixels); }
};

extern "C" __global__ void __launch_bounds__(THREADS, 4) max_pool_forward(
    const real* __restrict__ x, real* __restrict__ y, int height, int width, int rows, int cols, int images) {
  const int place = blockIdx.x * THREADS + threadIdx.x, p = blockIdx.y, q = place / images, n = place % images;
  if (place >= cols * images) return;
  const Axis down = {height, rows}, across = {width, cols};
  x += (long long)blockIdx.z * height * width * images;
  real largest = x[(p * STRIDE * width + q * STRIDE) * images + n];
  for (int h = p * STRIDE; h < down.end(p); h++) {
    for (int w = q * STRIDE; w < across.end(q); w++) {
      const real value = x[(h * width + w) * images + n];
      if (value > largest || value != value) largest = value;  // NaN is passed on
    }
  }
  y[((long long)blockIdx.z * rows + p) * cols * images + place] = largest;
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) max_pool_backward(
    const real* __restrict__ d_y, const real* __restrict__ x, const real* __restrict__ y, real* __restrict__ d_x,
    int height, int width, int rows, int cols, int images) {
  const int place = blockIdx.x * THREADS + threadIdx.x, h = blockIdx.y, w = place / images, n = place % images;
  if (place >= width * images) return;
  const Axis down = {height, rows}, across = {width, cols};
  x += (long long)blockIdx.z * height * width * images;
  const real own = x[h * width * images + place];
  real sum = 0;
  for (int p = down.first(h); p <= down.last(h); p++) {
    for (int q = across.first(w); q <= across.last(w); q++) {
      const long long window = (((long long)blockIdx.z * rows + p) * cols + q) * images + n;
      bool won = y[window] == own;
      for (int i = p * STRIDE; won && i <= h; i++) {  // is an earlier pixel, in reading order, as large?
        for (int j = q * STRIDE; won && j < (i < h ? across.end(q) : w); j++) {
          won = x[(i * width + j) * images + n] != own;
        }
      }
      if (won) sum += d_y[window];
    }
  }
  d_x[((long long)blockIdx.z * height + h) * width * images + place] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) average_pool_forward(
    const real* __restrict__ x, real* __restrict__ y, int height, int width, int rows, int cols, int images) {
  const int place = blockIdx.x * THREADS + threadIdx.x, p = blockIdx.y, q = place / images, n = place % images;
  if (place >= cols * images) return;
  const Axis down = {height, rows}, across = {width, cols};
  x += (long long)blockIdx.z * height * width * images;
  real sum = 0;
  for (int h = p * STRIDE; h < down.end(p); h++) {
    for (int w = q * STRIDE; w < across.end(q); w++) sum += x[(h * width + w) * images + n];
  }
  const int inside = (down.end(p) - p * STRIDE) * (across.end(q) - q * STRIDE);
  y[((long long)blockIdx.z * rows + p) * cols * images + place] = sum / inside;
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) average_pool_backward(
    const real* __restrict__ d_y, real* __restrict__ d_x, int height, int width, int rows, int cols, int images) {
  const int place = blockIdx.x * THREADS + threadIdx.x, h = blockIdx.y, w = place / images, n = place % images;
  if (place >= width * images) return;
  const Axis down = {height, rows}, across = {width, cols};
  real sum = 0;
  for (int p = down.first(h); p <= down.last(h); p++) {
    for (int q = across.first(w); q <= across.last(w); q++) {
      const int inside = (down.end(p) - p * STRIDE) * (across.end(q) - q * STRIDE);
      sum += d_y[(((long long)blockIdx.z * rows + p) * cols + q) * images + n] / inside;
    }
  }
  d_x[((long long)blockIdx.z * height + h) * width * images + place] = sum;
}
