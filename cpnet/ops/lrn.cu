// Local response normalization; lrn.py has the formulas.
//
// A thread owns one pixel of one image in one column and walks through its maps, keeping the maps of the window in
// registers: every number is read once and written once, which is all that memory must do (forward 2, backward 3 times
// the activations' bytes). A block owns THREADS such pixels next to each other, so that each of the walk's loads and
// stores is one run of memory for a warp. grid: (blocks of pixels, columns). s is computed again in backward: that
// takes a few multiplications, and a stored s would be a third more to read.
static_assert(WINDOW % 2 == 1, "as many neighbours on both sides of a map");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "a block is whole warps, at most 1024 threads");

constexpr int HALF = WINDOW / 2;

// Drop the oldest of the values, append one.
template <int count>
__device__ __forceinline__ void push(real (&values)[count], real value) {
#pragma unroll
  for (int i = 0; i + 1 < count; i++) values[i] = values[i + 1];
  values[count - 1] = value;
}

// s of the formula, for the map in the middle of the window `a`; maps outside the column are zeros.
__device__ __forceinline__ real scale(const real (&a)[WINDOW], real k, real alpha) {
  real sum = 0;
#pragma unroll
  for (int i = 0; i < WINDOW; i++) sum += a[i] * a[i];
  return k + alpha * sum;
}

// s^β; for the paper's β = 3/4 by two square roots, which is exact to the last bits and faster than pow.
__device__ __forceinline__ real power(real s, real beta) {
#if THREE_QUARTERS
  const real root = sqrt(s);
  return root * sqrt(root);
#else
  return pow(s, beta);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) lrn_forward(
    const real* __restrict__ x, real* __restrict__ y, int maps, long long pixels, real k, real alpha, real beta) {
  const long long pixel = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (pixel >= pixels) return;
  const long long start = (long long)blockIdx.y * maps * pixels + pixel;
  real a[WINDOW] = {};  // x[c − HALF … c + HALF]
#pragma unroll 4
  for (int next = 0; next < maps + HALF; next++) {
    push(a, next < maps ? x[start + next * pixels] : 0);
    const int c = next - HALF;
    if (c >= 0) y[start + c * pixels] = a[HALF] / power(scale(a, k, alpha), beta);
  }
}

// d_x may be d_y: a thread has read d_y[c + HALF] and all before it when it writes d_x[c]. coefficient: 2αβ.
extern "C" __global__ void __launch_bounds__(THREADS) lrn_backward(
    const real* d_y, const real* __restrict__ x, real* d_x, int maps, long long pixels, real k, real alpha, real beta,
    real coefficient) {
  const long long pixel = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (pixel >= pixels) return;
  const long long start = (long long)blockIdx.y * maps * pixels + pixel;
  real a[WINDOW] = {};         // x[j − HALF … j + HALF] with j = next − HALF, the map whose s is known now
  real d[HALF + 1] = {};       // d_y[j … next]
  real direct[HALF + 1] = {};  // d_y · s^−β of maps c … j with c = j − HALF, the map whose d_x is complete now
  real cross[WINDOW] = {};     // d_y · x · s^(−β−1) of maps c − HALF … c + HALF; zeros outside the column, as d is
#pragma unroll 2
  for (int next = 0; next < maps + 2 * HALF; next++) {
    const bool inside = next < maps;
    push(a, inside ? x[start + next * pixels] : 0);
    push(d, inside ? d_y[start + next * pixels] : 0);
    const real s = scale(a, k, alpha);
    push(direct, d[0] / power(s, beta));
    push(cross, direct[HALF] * a[HALF] / s);
    const int c = next - 2 * HALF;
    if (c >= 0) {
      real sum = 0;
#pragma unroll
      for (int i = 0; i < WINDOW; i++) sum += cross[i];
      d_x[start + c * pixels] = direct[0] - coefficient * a[0] * sum;
    }
  }
}
