// What kernels may do: compared with NumPy by test_cuemu.py.
#include "reduce.cuh"

#ifndef real
#define real float
#endif

// ---- arithmetic, templates, macros ----------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(64 * (2 + 2), 1)
axpy(const real* __restrict__ x, real* __restrict__ y, int n, real a) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = fma(a, __ldg(x + i), y[i]);
}

template <typename T, int PER_THREAD>
__global__ void block_sums(const T* __restrict__ x, T* __restrict__ out, int n) {
  extern __shared__ __align__(16) unsigned char raw[];
  T* parts = reinterpret_cast<T*>(raw);
  __shared__ T total;
  T sum = 0;
#pragma unroll
  for (int u = 0; u < PER_THREAD; u++) {
    const int i = (blockIdx.x * PER_THREAD + u) * blockDim.x + threadIdx.x;
    if (i < n) sum += x[i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = warp_sum(threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : T(0));
    if (threadIdx.x == 0) total = sum;
  }
  __syncthreads();
  if (threadIdx.x == blockDim.x - 1) out[blockIdx.x] = total;
}

extern "C" __global__ void functions32(const float* x, float* y) {
  const float v = x[threadIdx.x];
  const float all[8] = {expf(v), logf(v), powf(v, -.75f), sqrtf(v), rsqrtf(v), tanhf(v), __powf(v, .75f), fmaf(v, v, 1.f)};
  for (int i = 0; i < 8; i++) y[i * 32 + threadIdx.x] = all[i];
}
extern "C" __global__ void functions64(const double* x, double* y) {
  const double v = x[threadIdx.x];
  const double all[8] = {exp(v), log(v), pow(v, -.75), sqrt(v), rsqrt(v), tanh(v), pow(v, .75), fma(v, v, 1.)};
  for (int i = 0; i < 8; i++) y[i * 32 + threadIdx.x] = all[i];
}

// ---- vectors --------------------------------------------------------------------------------------------------------

struct Pair { float4 a; int2 b; };
__constant__ float weights[4] = {1.f, 2.f, 3.f, 4.f};

extern "C" __global__ void vectors(const float4* x, const uchar4* bytes, float* sums, unsigned char* copy, Pair* pairs) {
  const int i = threadIdx.x;
  const float4 v = x[i];
  const uchar4 b = bytes[i];
  const float2 half = *reinterpret_cast<const float2*>(&reinterpret_cast<const float*>(x)[4 * i + 2]);
  const int2 n = make_int2(b.x, b.w);
  sums[i] = v.x * weights[0] + v.y * weights[1] + half.x * weights[2] + half.y * weights[i % 4] + n.x - n.y;
  copy[i] = b.y;                                 // neighbours write the bytes of one word
  pairs[i].a = v;
  pairs[i].b = n;
  if (i > 0) return;
  Pair all[2] = {pairs[0], pairs[0]};
  pairs[blockDim.x] = all[1];
}

// ---- warps ----------------------------------------------------------------------------------------------------------

extern "C" __global__ void shuffles(const int* x, int* y, int by, int width) {
  const int i = threadIdx.x, v = x[i], n = blockDim.x;
  y[i] = __shfl_sync(0xffffffffu, v, by, width);
  y[n + i] = __shfl_up_sync(0xffffffffu, v, by, width);
  y[2 * n + i] = __shfl_down_sync(0xffffffffu, v, by, width);
  y[3 * n + i] = __shfl_xor_sync(0xffffffffu, v, by, width);
  y[4 * n + i] = (int)__shfl_sync(0xffffffffu, (double)v, 31 - i % 32);
}

extern "C" __global__ void votes(const int* x, unsigned* y) {
  const int i = threadIdx.x, n = blockDim.x;
  y[i] = __ballot_sync(0xffffffffu, x[i]);
  y[n + i] = __any_sync(0xffffffffu, x[i]);
  y[2 * n + i] = __all_sync(0xffffffffu, x[i]);
  y[3 * n + i] = __syncthreads_count(x[i]);
  y[4 * n + i] = __syncthreads_or(x[i]);
  y[5 * n + i] = __syncthreads_and(x[i]);
}

extern "C" __global__ void reverse_in_warp(const float* x, float* y) {
  __shared__ float s[64];
  const int i = threadIdx.x;
  s[i] = x[blockIdx.x * 64 + i];
  __syncwarp();
  y[blockIdx.x * 64 + i] = s[i ^ 31];
}

// ---- atomics --------------------------------------------------------------------------------------------------------

extern "C" __global__ void atomics(const int* x, int* counts, int* ends, unsigned long long* total, int* turn, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  atomicAdd(&counts[x[i]], 1);
  atomicMin(&ends[0], x[i] * 10 + i % 10);
  atomicMax(&ends[1], x[i] * 10 + i % 10);
  atomicOr(&ends[2], 1 << x[i]);
  atomicAdd(total, (unsigned long long)i << 30);
  while (atomicCAS(turn, -1, i) == -1) {}        // whoever comes first
}

// ---- a tile in shared memory: a missing barrier makes this wrong -----------------------------------------------------

extern "C" __global__ void shift(const float* x, float* y) {
  __shared__ float s[128];
  const int i = threadIdx.x;
  s[i] = x[i];
#ifndef NO_BARRIER
  __syncthreads();
#endif
  y[i] = s[i ? i - 1 : 0];
}

// ---- what is PTX on the GPU ------------------------------------------------------------------------------------------

extern "C" __global__ void copies(const float* x, float* y, int inside) {
  __shared__ __align__(16) float a[4 * 32], b[2 * 32], c[32], z[4 * 32];
  const int i = threadIdx.x;
  cp_async16(&a[4 * i], &x[4 * i]);
  cp_async8(&b[2 * i], &x[128 + 2 * i]);
  cp_async_commit();
  cp_async4(&c[i], &x[192 + i]);
  cp_async16z(&z[4 * i], i < inside ? &x[4 * i] : x, i < inside);
  cp_async_commit();
  cp_async_wait<1>();                            // the first group
  __syncthreads();
  for (int k = 0; k < 4; k++) y[k * 32 + i] = a[k * 32 + (i + 7) % 32];
  for (int k = 0; k < 2; k++) y[128 + k * 32 + i] = b[k * 32 + (i + 7) % 32];
  cp_async_wait<0>();
  __syncthreads();
  y[192 + i] = c[(i + 7) % 32];
  for (int k = 0; k < 4; k++) y[224 + k * 32 + i] = z[k * 32 + i];
}

extern "C" __global__ void load_matrix(const float* x, float* y) {
  __shared__ __align__(16) float s[32][4];
  const int i = threadIdx.x;
  for (int k = 0; k < 4; k++) s[i][k] = x[4 * i + k];
  __syncwarp();
  float r[4];
  ldmatrix4(r, s[i]);
  for (int k = 0; k < 4; k++) y[k * 32 + i] = r[k];
}

extern "C" __global__ void multiply(const float* a, const float* b, const float* c, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const unsigned af[4] = {__float_as_uint(a[g * 8 + t]), __float_as_uint(a[(g + 8) * 8 + t]),
                          __float_as_uint(a[g * 8 + t + 4]), __float_as_uint(a[(g + 8) * 8 + t + 4])};
  const unsigned bf[2] = {__float_as_uint(b[t * 8 + g]), __float_as_uint(b[(t + 4) * 8 + g])};
  float df[4];
#pragma unroll
  for (int i = 0; i < 4; i++) df[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_m16n8k8_tf32(df, af, bf);
#pragma unroll
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = df[i];
}

extern "C" __global__ void round_to_tf32(const float* x, unsigned* y) { y[threadIdx.x] = to_tf32(x[threadIdx.x]); }
