// What is inline PTX on the GPU: cp.async, ldmatrix and mma.
#include <string.h>

#include "machine.h"

namespace cuemu {

// ---- cp.async -------------------------------------------------------------------------------------------------------

void copy_async(void* to, const void* from, int bytes, int from_bytes) {
  void* code = __builtin_return_address(0);
  if (((uintptr_t)to | (uintptr_t)from) % bytes)
    fail("misaligned", code, "cp.async of %d bytes: misaligned address", bytes);
  if (launch->check && !is_shared(to)) fail("out of bounds", code, "cp.async to an address outside shared memory");
  if (from_bytes) check_access(from, from_bytes, READ, code);
  check_access(to, bytes, WRITE | COPY, code);
  poison(to, bytes);                             // until waited for, what is there is anybody's guess
  current->copies.push_back({to, from, bytes, from_bytes, code});
}

void commit_copies() {
  int grouped = 0;
  for (int n : current->groups) grouped += n;
  current->groups.push_back((int)current->copies.size() - grouped);
}

void wait_copies(int groups_still_open) {
  Thread& me = *current;
  while ((int)me.groups.size() > groups_still_open) {
    const int landing = me.groups.front();
    for (int i = 0; i < landing; i++) {
      const Copy& copy = me.copies[i];
      memset(copy.to, 0, copy.bytes);
      memcpy(copy.to, copy.from, copy.from_bytes);
      check_landed(copy.to, copy.bytes, __builtin_return_address(0));
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + landing);
    me.groups.erase(me.groups.begin());
  }
}

// ---- ldmatrix -------------------------------------------------------------------------------------------------------

// Matrices of 8 rows of 16 bytes.  Lane 8m + i passes the address of row i of matrix m; lane l gets, of each matrix,
// word l % 4 of row l / 4.
void load_matrices(uint32_t* words, int matrices, const void* row, Where at) {
  void* code = __builtin_return_address(0);
  const int lane = current->lane;
  if (lane < 8 * matrices && (uintptr_t)row % 16)
    fail("misaligned", at, "ldmatrix: a row must start at a multiple of 16 bytes");
  for (int m = 0; m < matrices; m++) {
    const uint32_t* source = (const uint32_t*)shuffle(~0u, (uint64_t)row, INDEX, 8 * m + lane / 4, 32, at) + lane % 4;
    if (launch->check && !is_shared(source))
      fail("out of bounds", code, "ldmatrix from an address outside shared memory");
    check_access(source, 4, READ, code);
    words[m] = *source;
  }
}

// ---- mma ------------------------------------------------------------------------------------------------------------

static float tf32(uint32_t bits) {               // the tensor core ignores the low 13 bits
  bits &= 0xffffe000u;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// D (16 x 8) += A (16 x 8, by rows) B (8 x 8, by columns).  With g = lane / 4 and t = lane % 4, a lane holds
// a: A(g, t) A(g + 8, t) A(g, t + 4) A(g + 8, t + 4);  b: B(t, g) B(t + 4, g);
// d: D(g, 2t) D(g, 2t + 1) D(g + 8, 2t) D(g + 8, 2t + 1).
static void multiply_16x8x8(Warp& warp, uint32_t lanes) {
  if (lanes != ~0u) {
    current = &warp.lanes[__builtin_ctz(lanes)];
    fail("divergent warp", current->at, "mma with only the lanes 0x%08x of the warp", lanes);
  }
  float a[16][8], b[8][8], d[16][8];
  for (int lane = 0; lane < WARP; lane++) {
    const uint32_t* in = warp.lanes[lane].in;
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) a[g + i % 2 * 8][t + i / 2 * 4] = tf32(in[i]);
    for (int i = 0; i < 2; i++) b[t + 4 * i][g] = tf32(in[4 + i]);
    for (int i = 0; i < 4; i++) memcpy(&d[g + i / 2 * 8][2 * t + i % 2], in + 6 + i, 4);
  }
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 8; k++)
      for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < WARP; lane++)
    for (int i = 0; i < 4; i++) memcpy(&warp.lanes[lane].out[i], &d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], 4);
}

void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where at) {
  Thread& me = *current;
  memcpy(me.in, a, sizeof a);
  memcpy(me.in + 4, b, sizeof b);
  memcpy(me.in + 6, d, sizeof d);
  warp_operation(~0u, multiply_16x8x8, at);
  memcpy(d, me.out, sizeof d);
}

}  // namespace cuemu
