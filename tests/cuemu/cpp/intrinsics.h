// Loads, atomics, bits and arithmetic.  sqrtf, fmaf, exp, pow, tanhf ... are the C library's, in both precisions.
#pragma once

// ---- loads and stores with cache hints ------------------------------------------------------------------------------

template <class T> __forceinline__ T __ldg(const T* p) { return *p; }
template <class T> __forceinline__ T __ldcg(const T* p) { return *p; }
template <class T> __forceinline__ T __ldca(const T* p) { return *p; }
template <class T> __forceinline__ T __ldcs(const T* p) { return *p; }
template <class T> __forceinline__ void __stcg(T* p, T value) { *p = value; }
template <class T> __forceinline__ void __stcs(T* p, T value) { *p = value; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- atomics, of integers only: sums of floats would depend on the order of threads ---------------------------------

namespace cuemu {
template <class T> using Operand = typename std::common_type<T>::type;  // not deduced: atomicAdd(unsigned*, 1) is fine
template <class T>
__forceinline__ T atomic_of(T* p, Operand<T> value, Atomic kind, Operand<T> expected = 0) {
  static_assert(std::is_integral<T>::value && sizeof(T) >= 4, "atomics are for integers of 4 or 8 bytes");
  return (T)atomic(p, sizeof(T), std::is_signed<T>::value, kind, (uint64_t)value, (uint64_t)expected);
}
}  // namespace cuemu

#define CUEMU_ATOMIC(name, kind)                                                                                       \
  template <class T>                                                                                                   \
  __forceinline__ T name(T* p, cuemu::Operand<T> value) { return cuemu::atomic_of(p, value, cuemu::kind); }
CUEMU_ATOMIC(atomicAdd, ADD)
CUEMU_ATOMIC(atomicSub, SUBTRACT)
CUEMU_ATOMIC(atomicMin, MINIMUM)
CUEMU_ATOMIC(atomicMax, MAXIMUM)
CUEMU_ATOMIC(atomicAnd, AND)
CUEMU_ATOMIC(atomicOr, OR)
CUEMU_ATOMIC(atomicXor, EXCLUSIVE_OR)
CUEMU_ATOMIC(atomicExch, EXCHANGE)
template <class T>
__forceinline__ T atomicCAS(T* p, cuemu::Operand<T> expected, cuemu::Operand<T> value) {
  return cuemu::atomic_of(p, value, cuemu::EXCHANGE_IF, expected);
}

// ---- bits -----------------------------------------------------------------------------------------------------------

#define CUEMU_BITS(name, To, From)                                                                                     \
  inline To name(From value) {                                                                                         \
    To result;                                                                                                         \
    memcpy(&result, &value, sizeof result);                                                                            \
    return result;                                                                                                     \
  }
CUEMU_BITS(__float_as_int, int, float)
CUEMU_BITS(__float_as_uint, unsigned, float)
CUEMU_BITS(__int_as_float, float, int)
CUEMU_BITS(__uint_as_float, float, unsigned)
CUEMU_BITS(__double_as_longlong, long long, double)
CUEMU_BITS(__longlong_as_double, double, long long)
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; i++) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }

// ---- arithmetic -----------------------------------------------------------------------------------------------------

// CUDA's overloads take the common type; std::min would refuse min(int, unsigned).
template <class A, class B> using CuemuCommon = typename std::common_type<A, B>::type;
template <class A, class B> __forceinline__ CuemuCommon<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B> __forceinline__ CuemuCommon<A, B> max(A a, B b) { return a < b ? b : a; }

inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline double rsqrt(double x) { return 1. / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
// The fast approximations are as accurate here as the real functions.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanhf(x) tanhf(x)
#define __fdividef(x, y) ((x) / (y))
#define __frcp_rn(x) (1.f / (x))
#define __fsqrt_rn(x) sqrtf(x)
#define __frsqrt_rn(x) (1.f / sqrtf(x))
#define __fmaf_rn(x, y, z) fmaf(x, y, z)
// Never contracted into a fused multiply-add, as in CUDA.
__attribute__((noinline)) inline float __fmul_rn(float x, float y) { return x * y; }
__attribute__((noinline)) inline float __fadd_rn(float x, float y) { return x + y; }
__attribute__((noinline)) inline float __fsub_rn(float x, float y) { return x - y; }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline float __int2float_rn(int x) { return (float)x; }

inline void __trap(cuemu::Where at = cuemu::Where::here()) { cuemu::trap("__trap()", at); }
#undef assert
#define assert(condition) ((condition) ? (void)0 : cuemu::trap("assert(" #condition ")", cuemu::Where::here()))
