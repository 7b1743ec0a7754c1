// In check mode kernels are compiled with -fsanitize=thread and parts of -fsanitize=undefined, but not linked with
// their libraries: the calls that the compiler inserts before every load and store, and on faults, arrive here.
#include "machine.h"

using namespace cuemu;

#define CODE __builtin_return_address(0)
#define ACCESS(bytes)                                                                       \
  void __tsan_read##bytes(void* p) { check_access(p, bytes, READ, CODE); }                  \
  void __tsan_write##bytes(void* p) { check_access(p, bytes, WRITE, CODE); }                \
  void __tsan_unaligned_read##bytes(void* p) { check_access(p, bytes, READ, CODE); }        \
  void __tsan_unaligned_write##bytes(void* p) { check_access(p, bytes, WRITE, CODE); }

struct Place { const char* file; uint32_t line, column; };  // each handler's first argument begins with one
#define UNDEFINED(handler, what)                                                            \
  void __ubsan_handle_##handler(Place* at, uintptr_t, uintptr_t) {                          \
    fail("undefined", Where{at->file, (int)at->line}, what);                                \
  }

#pragma GCC visibility push(default)
extern "C" {
void __tsan_init() {}
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
void __tsan_read_range(void* p, size_t bytes) { check_access(p, bytes, READ, CODE); }
void __tsan_write_range(void* p, size_t bytes) { check_access(p, bytes, WRITE, CODE); }

void __ubsan_handle_out_of_bounds(Place* at, uintptr_t index) {
  fail("out of bounds", Where{at->file, (int)at->line}, "array index %td is outside its dimension", (ptrdiff_t)index);
}
void __ubsan_handle_type_mismatch_v1(Place* at, uintptr_t address) {
  check_alignment((void*)address, Where{at->file, (int)at->line});
}
UNDEFINED(add_overflow, "signed overflow in +")
UNDEFINED(sub_overflow, "signed overflow in -")
UNDEFINED(mul_overflow, "signed overflow in *")
UNDEFINED(negate_overflow, "signed overflow in unary -")
UNDEFINED(divrem_overflow, "division by zero")
UNDEFINED(shift_out_of_bounds, "shift by too many bits, or of a negative number")
}
