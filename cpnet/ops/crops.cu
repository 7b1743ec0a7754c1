// Crops as the loader cuts them, to floats; crops.py has the definition.
//
// A block owns a tile of one row of the result, TILE columns by TILE images of one channel, with TILE × ROWS threads. In
// the crops a row's pixels lie next to each other, in the result the images: so the tile is read along the columns,
// crosses over in shared memory, and is written along the images, both in runs. Reads a byte and a number of the mean
// (which stays in the cache) a pixel, writes a number. grid: (tiles across, rows, channels · tiles of images). The tile's
// rows are one number longer than TILE, so that neither way do two lanes want the same bank.
static_assert(TILE == 32 && TILE % ROWS == 0, "a warp reads one row of the tile, and writes one column");

extern "C" __global__ void __launch_bounds__(TILE * ROWS) center_crops(
    const unsigned char* __restrict__ images, const real* __restrict__ mean, const int* __restrict__ top,
    const int* __restrict__ left, const bool* __restrict__ mirror, const real* __restrict__ shift, real* __restrict__ x,
    int count, int channels, int height, int width, int crop) {
  __shared__ real tile[TILE][TILE + 1];
  const int first_column = blockIdx.x * TILE, row = blockIdx.y, c = blockIdx.z % channels;
  const int first_image = blockIdx.z / channels * TILE;

  for (int i = threadIdx.y; i < TILE; i += ROWS) {
    const int n = first_image + i, column = first_column + threadIdx.x;
    if (n < count && column < crop) {
      const int v = mirror[n] ? crop - 1 - column : column, h = top[n] + row, w = left[n] + v;
      const bool inside = h >= 0 && h < height && w >= 0 && w < width;
      const unsigned char pixel = images[((n * (long long)channels + c) * crop + row) * crop + v];
      tile[i][threadIdx.x] =
          inside ? pixel - mean[(c * (long long)height + h) * width + w] + shift[n * channels + c] : nanf("");
    }
  }
  __syncthreads();
  for (int j = threadIdx.y; j < TILE; j += ROWS) {
    const int n = first_image + threadIdx.x, column = first_column + j;
    if (n < count && column < crop) x[((c * (long long)crop + row) * crop + column) * count + n] = tile[threadIdx.x][j];
  }
}
