// What surrounds the matrix products of fully-connected layers: the bias and its gradient. Arrays (outputs, N).
//
// A block owns ROWS outputs, a warp one of them: its lanes take 32 neighbouring images at a time. y is read and written
// once, d_y read once. The bias is one load a warp; the gradient's sum is added up by lanes in a fixed order.
static_assert(ROWS >= 1 && ROWS <= 32, "a block is ROWS warps, at most 1024 threads");

extern "C" __global__ void __launch_bounds__(32 * ROWS)
add_bias(real* y, const real* __restrict__ b, int outputs, int images) {
  const int row = blockIdx.x * ROWS + threadIdx.y;
  if (row >= outputs) return;
  const real bias = b[row];
  for (int n = threadIdx.x; n < images; n += 32) y[(long long)row * images + n] += bias;
}

extern "C" __global__ void __launch_bounds__(32 * ROWS)
bias_gradient(const real* __restrict__ d_y, real* __restrict__ d_b, int outputs, int images) {
  const int row = blockIdx.x * ROWS + threadIdx.y;
  if (row >= outputs) return;  // all lanes of the warp together
  real sum = 0;
  for (int n = threadIdx.x; n < images; n += 32) sum += d_y[(long long)row * images + n];
#pragma unroll
  for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
  if (threadIdx.x == 0) d_b[row] = sum;
}
