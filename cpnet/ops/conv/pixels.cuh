// What the kernels of the weights' gradient share: which columns and which pixels a block adds up over.
//
// Columns are (tap, channel), tap by tap, so that most blocks see few taps: pixels where all of those fall into the padding
// are left out. The others are shared out among the parts of the sum (gridDim.y).
#include "share.cuh"

// What a column reads at p = q = 0: the pixel of x and its row and column, be they in the padding.
struct Place { int pixel, down, across; };

__device__ __forceinline__ Place place_of(int column, int C, int H, int W, int S, int before) {
  const int tap = column / C, down = tap / S - before, across = tap % S - before;
  return {column % C * H * W + down * W + across, down, across};
}

// The pixels (p, q) of one block: `count` of them, from (p, q) on, q from q_first up to q_end in each row.
struct Pixels { int p, q, q_first, q_end, count; };

// For a block whose columns are first_column ... last_column.
__device__ __forceinline__ Pixels pixels_of(int first_column, int last_column, int C, int H, int W, int S, int P, int Q,
                                            int stride, int before) {
  const int first_tap = first_column / C, last_tap = last_column / C, r_min = first_tap / S, r_max = last_tap / S;
  const int s_min = r_min == r_max ? first_tap % S : 0, s_max = r_min == r_max ? last_tap % S : S - 1;
  const int p_first = max(0, before - r_max + stride - 1) / stride, q_first = max(0, before - s_max + stride - 1) / stride;
  const int p_end = min(P, max(0, H - 1 + before - r_min + stride) / stride);
  const int q_end = min(Q, max(0, W - 1 + before - s_min + stride) / stride);
  const int width = max(1, q_end - q_first), pixels = max(0, p_end - p_first) * max(0, q_end - q_first);
  const Share share = share_of(pixels, blockIdx.y, gridDim.y);
  return {p_first + share.first / width, q_first + share.first % width, q_first, q_end, share.count};
}
