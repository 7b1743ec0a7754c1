// ReLU, tanh, sign and a sum; pointwise.py has the formulas.
//
// A block owns THREADS · 16 bytes of each array, a thread 16 bytes (elementwise.cuh). Forward reads x and writes y,
// backward reads d_y and y and writes d_x, each once: nothing but memory's speed matters here. The result may be written
// over an argument, as each number is read and written by one thread; therefore no __restrict__.
#include "elementwise.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) relu_forward(const real* x, real* y, long long count) {
  const long long i = first_number();
  Pack a = load(x, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) a.v[j] = a.v[j] <= 0.f ? 0 : a.v[j];  // so that NaN stays NaN
  store(a, y, i, count);
}

extern "C" __global__ void __launch_bounds__(THREADS)
relu_backward(const real* d_y, const real* y, real* d_x, long long count) {
  const long long i = first_number();
  Pack d = load(d_y, i, count);
  const Pack a = load(y, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) d.v[j] = a.v[j] > 0.f ? d.v[j] : 0;
  store(d, d_x, i, count);
}

extern "C" __global__ void __launch_bounds__(THREADS) tanh_forward(const real* x, real* y, long long count) {
  const long long i = first_number();
  Pack a = load(x, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) a.v[j] = tanh(a.v[j]);
  store(a, y, i, count);
}

extern "C" __global__ void __launch_bounds__(THREADS)
tanh_backward(const real* d_y, const real* y, real* d_x, long long count) {
  const long long i = first_number();
  Pack d = load(d_y, i, count);
  const Pack a = load(y, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) d.v[j] *= 1 - a.v[j] * a.v[j];
  store(d, d_x, i, count);
}

extern "C" __global__ void __launch_bounds__(THREADS) sign(const real* x, real* y, long long count) {
  const long long i = first_number();
  Pack a = load(x, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) a.v[j] = a.v[j] > 0 ? 1 : -1;
  store(a, y, i, count);
}

extern "C" __global__ void __launch_bounds__(THREADS) add(const real* a, const real* b, real* sum, long long count) {
  const long long i = first_number();
  Pack p = load(a, i, count);
  const Pack q = load(b, i, count);
#pragma unroll
  for (int j = 0; j < WIDTH; j++) p.v[j] += q.v[j];
  store(p, sum, i, count);
}
