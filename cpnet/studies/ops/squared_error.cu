// Squared error; squared_error.py has the formulas. y, x (features, N).
//
// As in softmax.cu a block owns IMAGES images, 32 bytes of each feature's row, and thread (n, row) takes features row,
// row + ROWS, … of image n; the partial sums are added in the order of the rows: the same bits every time. Both arrays are
// read once, and d_y is written once.
static_assert(IMAGES * ROWS % 32 == 0 && IMAGES * ROWS <= 1024, "a block is whole warps, at most 1024 threads");

extern "C" __global__ void __launch_bounds__(IMAGES * ROWS) squared_error_forward(
    const real* __restrict__ y, const real* __restrict__ x, real* __restrict__ losses, int features, int images) {
  __shared__ real part[ROWS][IMAGES];
  const int n = blockIdx.x * IMAGES + threadIdx.x;
  const int end = n < images ? features : 0;
  real own = 0;
  for (int c = threadIdx.y; c < end; c += ROWS) {
    const long long i = (long long)c * images + n;
    const real d = y[i] - x[i];
    own += d * d;
  }
  part[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.y != 0 || n >= images) return;
  real sum = 0;
  for (int row = 0; row < ROWS; row++) sum += part[row][threadIdx.x];
  losses[n] = sum / 2;
}

// d_y may be y or x: each number is read and written by one thread; therefore no __restrict__.
extern "C" __global__ void __launch_bounds__(IMAGES * ROWS) squared_error_backward(
    const real* y, const real* x, real* d_y, int features, int images, real batch) {
  const int n = blockIdx.x * IMAGES + threadIdx.x;
  const int end = n < images ? features : 0;
  for (int c = threadIdx.y; c < end; c += ROWS) {
    const long long i = (long long)c * images + n;
    d_y[i] = (y[i] - x[i]) / batch;
  }
}
