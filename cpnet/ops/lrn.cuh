// Response normalization of one pixel, whose maps a thread walks through with those of the window in registers; lrn.py has
// the formulas. Each number is read once and written once, which is all that memory must do.
static_assert(WINDOW % 2 == 1, "as many neighbours on both sides of a map");

constexpr int HALF = WINDOW / 2;

// Drop the oldest of the values, append one.
template <int count>
__device__ __forceinline__ void push(real (&values)[count], real value) {
#pragma unroll
  for (int i = 0; i + 1 < count; i++) values[i] = values[i + 1];
  values[count - 1] = value;
}

struct Constants {
  real k, alpha, beta;
};

// s of the formula, for the map in the middle of the window `a`; maps outside the column are zeros.
__device__ __forceinline__ real scale(const real (&a)[WINDOW], const Constants& of) {
  real sum = 0;
#pragma unroll
  for (int i = 0; i < WINDOW; i++) sum += a[i] * a[i];
  return of.k + of.alpha * sum;
}

struct Powers {
  real damping, inverse;  // s^−β and 1/s
};

// For the paper's β = 3/4 by r = 1/√s: s^−β = r·√r, and √r = r·(1/√r). Two instructions, good to the last bits, and three
// products; exact roots and divisions take some forty, and the kernels would wait for arithmetic instead of memory. (s = ∞
// gives NaN.)
__device__ __forceinline__ Powers powers(real s, real beta) {
#if THREE_QUARTERS
  const real r = rsqrt(s);
  return {r * (r * rsqrt(r)), r * r};
#else
  return {pow(s, -beta), 1 / s};
#endif
}

// b of the formula, for the map in the middle of the window.
__device__ __forceinline__ real normalized(const real (&a)[WINDOW], const Constants& of) {
  return a[HALF] * powers(scale(a, of), of.beta).damping;
}

// The gradient at one pixel in one column, whose maps come one after the other, and 2 · HALF zeros after the last. s is
// computed again: that takes a few multiplications, and a stored s would be one array more to read.
struct Gradient {
  real a[WINDOW];         // x[j − HALF … j + HALF] with j = next − HALF, the map whose s is known now
  real d[HALF + 1];       // d_y[j … next]
  real direct[HALF + 1];  // d_y · s^−β of maps c … j with c = j − HALF, the map whose d_x is complete now
  real cross[WINDOW];     // d_y · x · s^(−β−1) of maps c − HALF … c + HALF; zeros outside the column, as d is

  // Takes x and d_y of map `next`; returns d_x of the map c = next − 2 · HALF, whose x is a[0].
  __device__ __forceinline__ real step(real x, real d_y, const Constants& of) {
    push(a, x);
    push(d, d_y);
    const Powers of_s = powers(scale(a, of), of.beta);
    push(direct, d[0] * of_s.damping);
    push(cross, direct[HALF] * a[HALF] * of_s.inverse);
    real sum = 0;
#pragma unroll
    for (int i = 0; i < WINDOW; i++) sum += cross[i];
    return direct[0] - 2 * of.alpha * of.beta * a[0] * sum;
  }
};
