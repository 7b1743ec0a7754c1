// y(m) = sum over k of w(k) x(k, m), a tile of x at a time: a subject for mutate.py.
#ifndef __CUEMU__
__device__ int gpu_only(int i, int n) { if (i < n) return 1; return 0; }
#endif
#define TILE 8

extern "C" __global__ void weighted_sum(const float* x, const float* w, float* y, int K, int M) {
  __shared__ float tile[TILE][64];
  const int t = threadIdx.x, m = blockIdx.x * 64 + t;
  const bool inside = m < M;
  float sum = 0.f;
  for (int k0 = 0; k0 < K; k0 += TILE) {
    for (int k = 0; k < TILE; k++) tile[k][63 - t] = inside && k0 + k < K ? x[(k0 + k) * M + m] : 0.f;
    __syncthreads();
    for (int k = 0; k < TILE; k++) {
      if (k0 + k >= K) break;                    // guard: performance only (a thread's own tile holds zeros there)
      sum += w[min(k0 + k, K - 1)] * tile[k][63 - t];
    }
    for (int k = 0; k < TILE; k++) sum += 0.f * tile[k][t];   // read what others wrote
    __syncthreads();
  }
  if (m >= M) return;
  y[m] = sum;
}
