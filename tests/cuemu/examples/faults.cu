// Each kernel does one thing wrong, on the line marked with its kind; test_cuemu.py expects a fault of that kind there.

// ---- bounds ---------------------------------------------------------------------------------------------------------

extern "C" __global__ void read_past_end(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x + 33];          //! out of bounds
}
extern "C" __global__ void write_before_start(const float* x, float* y) {
  y[(int)threadIdx.x - 1] = x[0];                //! out of bounds
}
extern "C" __global__ void read_far_away(const float* x, float* y) {
  const long far = y - x;
  y[threadIdx.x] = x[far + 1000000];             //! out of bounds
}
extern "C" __global__ void past_vector(const float* x, float* y) {
  *(float4*)(y + 4 * (threadIdx.x % 16)) = *(const float4*)(x + 64 * (threadIdx.x % 2));   //! out of bounds
}
extern "C" __global__ void past_shared(const float* x, float* y) {
  __shared__ float a[32], b[32];
  a[threadIdx.x] = b[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float* p = a;
  y[threadIdx.x] = p[threadIdx.x + 1];           //! out of bounds
}
extern "C" __global__ void past_dimension(const float* x, float* y) {
  __shared__ float a[8][4];
  a[threadIdx.x / 4][threadIdx.x % 4] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = a[0][threadIdx.x];            //! out of bounds
}
extern "C" __global__ void past_dynamic(const float* x, float* y) {
  extern __shared__ float d[];
  d[threadIdx.x] = x[threadIdx.x];               //! out of bounds
}
extern "C" __global__ void past_atomic(const float* x, float* y) {
  atomicAdd((int*)y + 64 + threadIdx.x, 1);      //! out of bounds
}
__device__ float element(const float* x, int i);
extern "C" __global__ void past_end_in_a_function(const float* x, float* y) { y[threadIdx.x] = element(x, 1 << 20); }
__device__ float element(const float* x, int i) {
  return x[i];                                   //! out of bounds
}

extern "C" __global__ void past_end_by_memcpy(const float* x, float* y) {
  memcpy(y + 60, x, 32);                         //! out of bounds
}

// ---- never written --------------------------------------------------------------------------------------------------

extern "C" __global__ void shared_never_written(const float* x, float* y) {
  __shared__ float s[32];
  if (threadIdx.x > 0) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 1];           //! uninitialised
}
extern "C" __global__ void shared_written_by_another_block(const float* x, float* y) {
  __shared__ float s[32];
  if (blockIdx.x == 0) s[threadIdx.x] = x[threadIdx.x];
  y[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];   //! uninitialised
}
extern "C" __global__ void global_never_written(const float* x, float* y) {
  y[threadIdx.x] += x[threadIdx.x];              //! uninitialised
}

// ---- alignment ------------------------------------------------------------------------------------------------------

extern "C" __global__ void misaligned_global(const float* x, float* y) {
  *(float4*)(y + 1) = make_float4(1, 2, 3, 4);   //! misaligned
}
extern "C" __global__ void misaligned_shared(const float* x, float* y) {
  __shared__ float s[32];                        // __align__(16) is missing
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  *(float4*)y = *(const float4*)s;               //! misaligned
}
extern "C" __global__ void misaligned_copy(const float* x, float* y) {
  __shared__ __align__(16) float s[32];
  cp_async16(s, x + 2);                          //! misaligned
}

// ---- races ----------------------------------------------------------------------------------------------------------

extern "C" __global__ void race_in_warp(const float* x, float* y) {
  __shared__ float s[32];
  s[threadIdx.x] = x[threadIdx.x];
  float v = __shfl_xor_sync(~0u, x[0], 1);       // orders nothing in memory
  y[threadIdx.x] = v + s[threadIdx.x ^ 1];       //! race, uninitialised
}
extern "C" __global__ void race_in_block(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 32];          //! race, uninitialised
}
extern "C" __global__ void overwritten_too_soon(const float* x, float* y) {
  __shared__ float s[64];
  float sum = 0;
  for (int i = 0; i < 2; i++) {
    s[threadIdx.x] = x[threadIdx.x];             //! race
    __syncthreads();
    sum += s[threadIdx.x ^ 32];                  //! race
  }
  y[threadIdx.x] = sum;
}
extern "C" __global__ void race_between_blocks(const float* x, float* y) {
  y[threadIdx.x] = x[blockIdx.x];                //! race
}
extern "C" __global__ void reads_what_a_block_wrote(const float* x, float* y) {
  y[blockIdx.x * 32 + threadIdx.x] = x[0];       //! race
  if (blockIdx.x == 1) y[32 + threadIdx.x] = y[threadIdx.x];   //! race
}
extern "C" __global__ void race_of_arguments(const float* x, float* y) {   // both the same array
  y[threadIdx.x] = x[threadIdx.x ^ 1];           //! race
}
extern "C" __global__ void atomic_and_plain(const float* x, float* y) {
  if (threadIdx.x == 0) atomicAdd((int*)y, 1);   //! race
  if (threadIdx.x == 40) y[0] = x[0];            //! race
}

// ---- cp.async -------------------------------------------------------------------------------------------------------

extern "C" __global__ void read_before_landing(const float* x, float* y) {
  __shared__ float s[64];
  cp_async4(&s[threadIdx.x], &x[threadIdx.x]);
  cp_async_commit();
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];               //! unwaited copy
}
extern "C" __global__ void wrong_group(const float* x, float* y) {
  __shared__ float s[2][32];
  for (int i = 0; i < 2; i++) {
    cp_async4(&s[i][threadIdx.x], &x[32 * i + threadIdx.x]);
    cp_async_commit();
  }
  cp_async_wait<1>();
  y[threadIdx.x] = s[0][threadIdx.x];
  y[threadIdx.x] = s[1][threadIdx.x];            //! unwaited copy
}
extern "C" __global__ void not_committed(const float* x, float* y) {
  __shared__ float s[64];
  cp_async4(&s[threadIdx.x], &x[threadIdx.x]);
  cp_async_wait<0>();
  y[threadIdx.x] = s[threadIdx.x];               //! unwaited copy
}
extern "C" __global__ void landed_without_barrier(const float* x, float* y) {
  __shared__ float s[64];
  cp_async4(&s[threadIdx.x], &x[threadIdx.x]);
  cp_async_commit();
  cp_async_wait<0>();                            // this thread's copy, not the others'
  y[threadIdx.x] = s[threadIdx.x ^ 1];           //! race, unwaited copy, uninitialised
}
extern "C" __global__ void never_landed(const float* x, float* y) {
  __shared__ float s[64];
  cp_async4(&s[threadIdx.x], &x[threadIdx.x]);   //! unwaited copy
}

// ---- waiting --------------------------------------------------------------------------------------------------------

extern "C" __global__ void two_barriers(const float* x, float* y) {
  if (threadIdx.x < 32) {
    __syncthreads();                             //! divergent barrier
  } else {
    __syncthreads();                             //! divergent barrier
  }
}
extern "C" __global__ void left_before_barrier(const float* x, float* y) {
  if (threadIdx.x == 5) return;
  __syncthreads();                               //! divergent barrier
}
extern "C" __global__ void outside_its_mask(const float* x, float* y) {
  y[threadIdx.x] = __shfl_sync(0xffffu, 1.f, 0); //! divergent warp
}
extern "C" __global__ void half_a_warp(const float* x, float* y) {
  if (threadIdx.x & 1) __syncwarp();             //! deadlock
  __syncthreads();                               //! deadlock
}
extern "C" __global__ void endless(const float* x, float* y) {
  while (x[0] == x[0]) {}                        //! timeout
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

extern "C" __global__ void overflow(const float* x, float* y) {
  y[threadIdx.x] = (int)blockDim.x * (1 << 30);  //! undefined
}
extern "C" __global__ void division_by_zero(const float* x, float* y) {
  y[threadIdx.x] = 5 / (int)(blockDim.y - 1);    //! undefined
}
extern "C" __global__ void failed_assertion(const float* x, float* y) {
  assert(blockDim.x == 7);                       //! trap
}
