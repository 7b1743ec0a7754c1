// Included before every kernel: CUDA's qualifiers, vector types and built-in functions for g++.
#pragma once
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <type_traits>
#include <utility>

#include "runtime.h"

#define __CUEMU__ 1

// ---- qualifiers -----------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// Functions that the checker must not look into: they call the runtime, or use what it has checked.
#define CUEMU_PLAIN __attribute__((no_sanitize("thread", "undefined")))

// source.py rewrites `extern __shared__ float s[];` and `__shared__ float s[8];` to these.  In check mode a variable
// lies far from others and is aligned no better than its type demands, so that a forgotten __align__(16) shows.
#define CUEMU_DYNAMIC_SHARED(name, ...) __VA_ARGS__* const name = (__VA_ARGS__*)cuemu::dynamic_shared()
#ifdef CUEMU_CHECK
#define CUEMU_GAP (64 << 10)
#define CUEMU_SHARED(name, ...)                                                                                        \
  struct cuemu_type_##name { __VA_ARGS__; };                                                                           \
  static struct alignas(256) {                                                                                         \
    char below[CUEMU_GAP + alignof(cuemu_type_##name)];                                                                \
    cuemu_type_##name it;                                                                                              \
    char above[CUEMU_GAP];                                                                                             \
  } cuemu_room_##name;                                                                                                 \
  static auto& name = cuemu_room_##name.it.name;                                                                       \
  cuemu::declare_shared(&name, sizeof name, #name)
#else
#define CUEMU_SHARED(name, ...) static __VA_ARGS__; cuemu::declare_shared(&name, sizeof name, #name)
#endif

// ---- vector types ---------------------------------------------------------------------------------------------------

#define CUEMU_VECTOR3(name, T)                                                                                         \
  struct name##3 { T x, y, z; };                                                                                       \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }
#define CUEMU_VECTORS(name, T)                                                                                         \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                                                   \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };                                   \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                    \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUEMU_VECTORS(char, signed char) CUEMU_VECTOR3(char, signed char)
CUEMU_VECTORS(uchar, unsigned char) CUEMU_VECTOR3(uchar, unsigned char)
CUEMU_VECTORS(short, short) CUEMU_VECTOR3(short, short)
CUEMU_VECTORS(ushort, unsigned short) CUEMU_VECTOR3(ushort, unsigned short)
CUEMU_VECTORS(int, int) CUEMU_VECTOR3(int, int)
CUEMU_VECTORS(uint, unsigned)                    // uint3 is in runtime.h
CUEMU_VECTORS(longlong, long long) CUEMU_VECTOR3(longlong, long long)
CUEMU_VECTORS(ulonglong, unsigned long long) CUEMU_VECTOR3(ulonglong, unsigned long long)
CUEMU_VECTORS(float, float) CUEMU_VECTOR3(float, float)
CUEMU_VECTORS(double, double) CUEMU_VECTOR3(double, double)
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

#include "collectives.h"
#include "device_helpers.h"
#include "intrinsics.h"
#include "entry.h"

#ifdef CUEMU_CHECK
#define memcpy cuemu::copy_memory
#define memset cuemu::set_memory
#endif
