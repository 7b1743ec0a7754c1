// The host forms of the kernels' small device functions that are inline PTX on the GPU.  A kernel file defines them
// under #ifndef __CUEMU__, with these names and arguments, and uses them as if there were no difference.
#pragma once

// Copies of 4, 8 or 16 bytes from global to shared memory that go on while the thread does something else.
// The forms with `inside` store zeros where it is false, and do not read.
__forceinline__ void cp_async4(void* to, const void* from) { cuemu::copy_async(to, from, 4, 4); }
__forceinline__ void cp_async8(void* to, const void* from) { cuemu::copy_async(to, from, 8, 8); }
__forceinline__ void cp_async16(void* to, const void* from) { cuemu::copy_async(to, from, 16, 16); }
__forceinline__ void cp_async4z(void* to, const void* from, bool inside) { cuemu::copy_async(to, from, 4, inside ? 4 : 0); }
__forceinline__ void cp_async8z(void* to, const void* from, bool inside) { cuemu::copy_async(to, from, 8, inside ? 8 : 0); }
__forceinline__ void cp_async16z(void* to, const void* from, bool inside) { cuemu::copy_async(to, from, 16, inside ? 16 : 0); }
__forceinline__ void cp_async_commit() { cuemu::commit_copies(); }          // this thread's copies since the last one: a group
template <int N> __forceinline__ void cp_async_wait() { cuemu::wait_copies(N); }  // until at most N groups are under way

// ldmatrix: lane 8m + i passes the address in shared memory of row i (16 bytes) of matrix m, and every lane gets word
// lane % 4 of row lane / 4 of each matrix.
template <class T>
inline void ldmatrix4(T (&words)[4], const void* row, cuemu::Where at = cuemu::Where::here()) {
  static_assert(sizeof(T) == 4, "words of 4 bytes");
  uint32_t bits[4];
  cuemu::load_matrices(bits, 4, row, at);
  memcpy(words, bits, sizeof bits);
}
template <class T>
inline void ldmatrix2(T (&words)[2], const void* row, cuemu::Where at = cuemu::Where::here()) {
  static_assert(sizeof(T) == 4, "words of 4 bytes");
  uint32_t bits[2];
  cuemu::load_matrices(bits, 2, row, at);
  memcpy(words, bits, sizeof bits);
}

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32: d += a b
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                             cuemu::Where at = cuemu::Where::here()) {
  float sum[4] = {d[0], d[1], d[2], d[3]};       // copies, so that the kernel's own arrays can live in registers
  const unsigned left[4] = {a[0], a[1], a[2], a[3]}, right[2] = {b[0], b[1]};
  cuemu::multiply_tf32(sum, left, right, at);
  for (int i = 0; i < 4; i++) d[i] = sum[i];
}

// cvt.rna.tf32.f32: rounded to the 11 bits that the tensor core reads, ties away from zero
inline unsigned to_tf32(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}
