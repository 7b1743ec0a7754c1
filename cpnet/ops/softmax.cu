// Softmax, cross-entropy and rank; softmax.py has the formulas. logits (classes, N).
//
// A block owns IMAGES images: eight float32 next to each other are 32 bytes, the least that memory delivers, so few images
// a block waste nothing and N = 128 still makes 16 blocks. Its threads are IMAGES × ROWS: thread (n, row) takes classes
// row, row + ROWS, … of image n; then each thread adds up its image's ROWS partial results in the order of the rows, so
// that all have the same sum, and the same bits every time. The logits are read two or three times, from memory once and
// then from the cache; results are written once, over the logits if so wished.
static_assert(IMAGES * ROWS % 32 == 0 && IMAGES * ROWS <= 1024, "a block is whole warps, at most 1024 threads");
constexpr int BLOCK = IMAGES * ROWS;

// A value of each thread → its combination over the image's rows. `part` is used for nothing else.
template <class T, class Combine>
__device__ __forceinline__ T over_rows(T value, T (&part)[ROWS][IMAGES], Combine combine) {
  part[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  T result = part[0][threadIdx.x];
  for (int row = 1; row < ROWS; row++) result = combine(result, part[row][threadIdx.x]);
  return result;
}

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const { return a + b; }
};

struct Largest {  // passes NaN over: the sum of exponentials, which follows, passes it on
  __device__ real operator()(real a, real b) const { return fmax(a, b); }
};

// The largest logit of image n, and the sum of exp(logit − largest). All threads of the block call this together.
struct Exponentials {
  real largest, sum;
};

__device__ __forceinline__ Exponentials exponentials(const real* logits, int classes, int images, int n) {
  __shared__ real largest_part[ROWS][IMAGES], sum_part[ROWS][IMAGES];
  const int end = n < images ? classes : 0;
  real own = __int_as_float(0xFF800000);  // −∞, for which NVRTC has no name
  for (int c = threadIdx.y; c < end; c += ROWS) own = Largest()(logits[(long long)c * images + n], own);
  const real largest = over_rows(own, largest_part, Largest());
  real sum = 0;
  for (int c = threadIdx.y; c < end; c += ROWS) sum += exp(logits[(long long)c * images + n] - largest);
  return {largest, over_rows(sum, sum_part, Sum())};
}

extern "C" __global__ void __launch_bounds__(BLOCK) softmax(const real* logits, real* p, int classes, int images) {
  const int n = blockIdx.x * IMAGES + threadIdx.x;
  const Exponentials of = exponentials(logits, classes, images, n);
  if (n >= images) return;
  for (int c = threadIdx.y; c < classes; c += ROWS) {
    const long long i = (long long)c * images + n;
    p[i] = exp(logits[i] - of.largest) / of.sum;
  }
}

// A label outside the classes makes the loss NaN.
extern "C" __global__ void __launch_bounds__(BLOCK) cross_entropy_forward(
    const real* __restrict__ logits, const label* __restrict__ labels, real* __restrict__ losses, int classes, int images) {
  const int n = blockIdx.x * IMAGES + threadIdx.x;
  const Exponentials of = exponentials(logits, classes, images, n);
  if (threadIdx.y != 0 || n >= images) return;
  const label right = labels[n];
  const bool known = right >= 0 && right < classes;
  losses[n] = known ? log(of.sum) - (logits[(long long)right * images + n] - of.largest) : nanf("");
}

extern "C" __global__ void __launch_bounds__(BLOCK) cross_entropy_backward(
    const real* logits, const label* __restrict__ labels, real* d_logits, int classes, int images, real batch) {
  const int n = blockIdx.x * IMAGES + threadIdx.x;
  const Exponentials of = exponentials(logits, classes, images, n);
  if (n >= images) return;
  for (int c = threadIdx.y; c < classes; c += ROWS) {
    const long long i = (long long)c * images + n;
    const real p = exp(logits[i] - of.largest) / of.sum;
    d_logits[i] = (c == labels[n] ? p - 1 : p) / batch;
  }
}

// A label outside the classes ranks last, as a score that is not a number.
extern "C" __global__ void __launch_bounds__(BLOCK) label_rank(
    const real* __restrict__ scores, const label* __restrict__ labels, long long* __restrict__ ranks, int classes,
    int images) {
  __shared__ int above_part[ROWS][IMAGES];
  const int n = blockIdx.x * IMAGES + threadIdx.x;
  const label right = n < images ? labels[n] : -1;
  const bool known = right >= 0 && right < classes;
  const real score = known ? scores[(long long)right * images + n] : nanf("");
  int above = 0;
  for (int c = threadIdx.y; known && c < classes; c += ROWS) {
    const real other = scores[(long long)c * images + n];
    above += other > score || (other == score && c < right);
  }
  above = over_rows(above, above_part, Sum());
  if (threadIdx.y == 0 && n < images) ranks[n] = score == score ? above : classes;
}

// Adds to sums: the losses' sum, the number of wrong answers, and 1 unless the sum of losses is no longer finite. One block:
// a thread takes every BLOCK-th image, then they add up theirs in pairs, so the order is the same every time.
extern "C" __global__ void __launch_bounds__(BLOCK) tally(
    const real* __restrict__ losses, const long long* __restrict__ ranks, double* sums, int images) {
  static_assert((BLOCK & (BLOCK - 1)) == 0, "the threads' sums are added in pairs");
  __shared__ double loss[BLOCK];
  __shared__ int wrong[BLOCK];
  const int thread = threadIdx.y * IMAGES + threadIdx.x;
  double own_loss = 0;
  int own_wrong = 0;
  for (int n = thread; n < images; n += BLOCK) {
    own_loss += losses[n];
    own_wrong += ranks[n] >= 1;
  }
  loss[thread] = own_loss;
  wrong[thread] = own_wrong;
  for (int others = BLOCK / 2; others > 0; others /= 2) {
    __syncthreads();
    if (thread < others) {
      loss[thread] += loss[thread + others];
      wrong[thread] += wrong[thread + others];
    }
  }
  if (thread == 0) {
    sums[0] += loss[0];
    sums[1] += wrong[0];
    sums[2] += sums[0] - sums[0] == 0;
  }
}
