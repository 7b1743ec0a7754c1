// Crops of raw images; crops.py has the definition.
//
// A block owns a tile of one row of the result, TILE columns by TILE images of one channel, with TILE × ROWS threads. In
// the raw images a row's pixels lie next to each other, in the result the images: so the tile is read along the columns,
// crosses over in shared memory, and is written along the images, both in runs. Reads a byte and a number of the mean
// (which stays in the cache) a pixel, writes a number. grid: (tiles across, rows, channels · tiles of images). The tile's
// rows are one number longer than TILE, so that neither way do two lanes want the same bank.
static_assert(TILE == 32 && TILE % ROWS == 0, "a warp reads one row of the tile, and writes one column");

extern "C" __global__ void __launch_bounds__(TILE * ROWS) crop_images(
    const unsigned char* __restrict__ raw, const real* __restrict__ mean, const int* __restrict__ top,
    const int* __restrict__ left, const bool* __restrict__ mirror, const real* __restrict__ shift, real* __restrict__ x,
    int images, int channels, int height, int width, int crop) {
  __shared__ real tile[TILE][TILE + 1];
  const int first_column = blockIdx.x * TILE, row = blockIdx.y, c = blockIdx.z % channels;
  const int first_image = blockIdx.z / channels * TILE;

  for (int i = threadIdx.y; i < TILE; i += ROWS) {
    const int n = first_image + i, column = first_column + threadIdx.x;
    if (n < images) {
      const int h = top[n] + row, w = left[n] + (mirror[n] ? crop - 1 - column : column);
      const bool inside = h >= 0 && h < height && w >= 0 && w < width;
      const long long at = (c * (long long)height + h) * width + w;
      const long long image = (long long)n * channels * height * width;
      tile[i][threadIdx.x] = inside ? raw[image + at] - mean[at] + shift[n * channels + c] : nanf("");
    }
  }
  __syncthreads();
  for (int j = threadIdx.y; j < TILE; j += ROWS) {
    const int n = first_image + threadIdx.x, column = first_column + j;
    if (n < images && column < crop) x[((c * (long long)crop + row) * crop + column) * images + n] = tile[threadIdx.x][j];
  }
}
