// What the convolution's kernels for tensor cores (compute capability 8.0 and newer) share: the pipeline that brings tiles
// into shared memory while those before them are multiplied, and the products themselves.
//
// A block adds up ROWS × COLUMNS results, a warp TM × TN of them, over k, BK at a time: a stage. The tiles of STAGES stages
// lie in a ring in shared memory. cp.async fills a slot without passing through registers, so that STAGES - 1 stages are
// under way while the threads multiply one; one barrier a stage says both that the next has landed and that all are done
// with the slot that is filled after it.
//
// Precision. The tensor core reads float32 as TF32: sign, exponent and the first 10 bits of the mantissa. With SPLIT each
// number is split into big + small, both of TF32 and together true to 2⁻²², and of the four products the three larger are
// added: 3×TF32, as exact as float32. The tensor core truncates where float32 would round as it adds up, so a stage's sum
// begins at zero and is added to the result by a float32 addition. Infinities become NaN. Without SPLIT both numbers are
// rounded to TF32 and multiplied once.

#define THREADS (32 * (ROWS / TM) * (COLUMNS / TN))
static_assert(ROWS % TM == 0 && COLUMNS % TN == 0, "warps cover the tile");
static_assert(TM % 16 == 0 && TN % 16 == 0, "a tensor core's tiles are 16 × 8, and ldmatrix reads two of 8 columns");
static_assert(STAGES >= 2, "one stage is filled while another is read");
static_assert(VECTOR == 1 || VECTOR == 4, "images that a thread copies at once");

#ifndef __CUEMU__  // PTX; tests/cuemu brings the host's forms
// `Bytes` from global to shared memory, or as many zero bytes where not `inside`; `from` is a valid address all the same.
#define CP_ASYNC(kind, bytes)                                                                                     \
  asm volatile("cp.async." kind ".shared.global [%0], [%1], " #bytes ", %2;" ::"r"(                               \
                   (unsigned)__cvta_generic_to_shared(to)),                                                       \
               "l"(from), "r"(inside ? bytes : 0)                                                                 \
               : "memory")
__device__ __forceinline__ void cp_async4z(float* to, const float* from, bool inside) { CP_ASYNC("ca", 4); }
__device__ __forceinline__ void cp_async16z(float* to, const float* from, bool inside) { CP_ASYNC("cg", 16); }
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int OPEN>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}
// Four matrices of 8 rows of 4 numbers: lane 8m + i names row i of matrix m and gets number lane % 4 of row lane / 4.
__device__ __forceinline__ void ldmatrix4(float (&words)[4], const float* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=f"(words[0]), "=f"(words[1]), "=f"(words[2]), "=f"(words[3])
               : "r"((unsigned)__cvta_generic_to_shared(row))
               : "memory");
}
// d (16 × 8) += a (16 × 8) b (8 × 8). With g = lane / 4, t = lane % 4 a lane holds a: (g, t) (g + 8, t) (g, t + 4)
// (g + 8, t + 4); b: (t, g) (t + 4, g); d: (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1).
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ unsigned to_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}
#endif

// COUNT numbers, 4 or 1.
template <int COUNT>
__device__ __forceinline__ void copy(float* to, const float* from, bool inside) {
  if (COUNT == 4) cp_async16z(to, from, inside); else cp_async4z(to, from, inside);
}

typedef float Sums[TM / 16][TN / 8][4];  // a lane's share of a warp's results, as the tensor core deals it out
typedef float Left[2][TM / 8];           // of 8 k: [h][2i + u] is row half u of row tile i at k = t + 4h
typedef float Right[2][TN / 8];          // of 8 k: [h][j] is column tile j at k = t + 4h

// A number as the tensor core reads it, and with SPLIT what is left of it.
__device__ __forceinline__ void split(float value, unsigned& big, unsigned& small) {
  if (SPLIT) {
    big = (__float_as_uint(value) + 0x1000u) & 0xFFFFE000u;  // rounded; two instructions where to_tf32 takes four
    small = __float_as_uint(value - __uint_as_float(big));   // exact, and NaN where value is not finite
  } else {
    big = to_tf32(value);
  }
}

// sums += left · right over 8 k. The small products first, and each kind for all tiles before the next, so that no product
// waits for one that is still on its way.
__device__ __forceinline__ void multiply(Sums& sums, const Left& left, const Right& right) {
  constexpr int HIGH = TM / 16, WIDE = TN / 8;
  unsigned left_big[HIGH][4], left_small[HIGH][4], right_big[WIDE][2], right_small[WIDE][2];
#pragma unroll
  for (int j = 0; j < WIDE; j++)
#pragma unroll
    for (int h = 0; h < 2; h++) split(right[h][j], right_big[j][h], right_small[j][h]);
#pragma unroll
  for (int i = 0; i < HIGH; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) split(left[e / 2][2 * i + e % 2], left_big[i][e], left_small[i][e]);
#pragma unroll
  for (int kind = SPLIT ? 0 : 2; kind < 3; kind++)
#pragma unroll
    for (int i = 0; i < HIGH; i++)
#pragma unroll
      for (int j = 0; j < WIDE; j++)
        mma_m16n8k8_tf32(sums[i][j], kind == 0 ? left_small[i] : left_big[i], kind == 1 ? right_small[j] : right_big[j]);
}

// sums += the products of `stages` stages. load(stage, slot) starts this thread's copies into a slot of the ring, for
// stages 0, 1 ... in turn; fragments(slot, k, left, right) reads this lane's share of the stage's k ... k + 7.
template <int BK, int SLOT, class Load, class Fragments>
__device__ __forceinline__ void add_stages(Sums& sums, float* ring, int stages, Load load, Fragments fragments) {
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    if (stage < stages) load(stage, ring + stage * SLOT);
    cp_async_commit();  // a group a stage, be it empty, so that their count tells which have landed
  }
  for (int stage = 0; stage < stages; stage++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    const int next = stage + STAGES - 1;
    if (next < stages) load(next, ring + next % STAGES * SLOT);
    cp_async_commit();

    const float* slot = ring + stage % STAGES * SLOT;
    Sums part = {};
#pragma unroll
    for (int k = 0; k < BK; k += 8) {
      Left left;
      Right right;
      fragments(slot, k, left, right);
      multiply(SPLIT ? part : sums, left, right);
    }
    if (SPLIT)
#pragma unroll
      for (int i = 0; i < TM / 16; i++)
#pragma unroll
        for (int j = 0; j < TN / 8; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) sums[i][j][e] += part[i][j][e];
  }
}
