// Barriers, shuffles and votes.
#pragma once

#define warpSize 32

inline void __syncthreads(cuemu::Where at = cuemu::Where::here()) { cuemu::barrier(false, at); }
inline int __syncthreads_count(int vote, cuemu::Where at = cuemu::Where::here()) {
  return cuemu::barrier(vote, at).count;
}
inline int __syncthreads_and(int vote, cuemu::Where at = cuemu::Where::here()) { return cuemu::barrier(vote, at).all; }
inline int __syncthreads_or(int vote, cuemu::Where at = cuemu::Where::here()) { return cuemu::barrier(vote, at).any; }
inline void __syncwarp(unsigned mask = ~0u, cuemu::Where at = cuemu::Where::here()) { cuemu::sync_warp(mask, at); }

inline unsigned __ballot_sync(unsigned mask, int vote, cuemu::Where at = cuemu::Where::here()) {
  return cuemu::ballot(mask, vote, at);
}
inline int __any_sync(unsigned mask, int vote, cuemu::Where at = cuemu::Where::here()) {
  return cuemu::ballot(mask, vote, at) != 0;
}
inline int __all_sync(unsigned mask, int vote, cuemu::Where at = cuemu::Where::here()) {
  return cuemu::ballot(mask, !vote, at) == 0;
}

namespace cuemu {
template <class T>
CUEMU_PLAIN inline T shuffle_value(unsigned mask, T value, Shuffle kind, int argument, int width, Where at) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = shuffle(mask, bits, kind, argument, width, at);
  memcpy(&value, &bits, sizeof value);
  return value;
}
}  // namespace cuemu

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, cuemu::Where at = cuemu::Where::here()) {
  return cuemu::shuffle_value(mask, value, cuemu::INDEX, lane, width, at);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, cuemu::Where at = cuemu::Where::here()) {
  return cuemu::shuffle_value(mask, value, cuemu::UP, by, width, at);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, cuemu::Where at = cuemu::Where::here()) {
  return cuemu::shuffle_value(mask, value, cuemu::DOWN, by, width, at);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32, cuemu::Where at = cuemu::Where::here()) {
  return cuemu::shuffle_value(mask, value, cuemu::XOR, by, width, at);
}
