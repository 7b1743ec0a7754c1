// What the runtime offers to the wrappers that kernels call.  The runtime is compiled once, without instrumentation;
// kernels are compiled with cuda.h, whose inline functions end in the functions declared here.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
#pragma GCC visibility push(default)             // the rest of the runtime is its own

// The scheduler sets these each time it switches to another thread.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuemu {

// A place in the kernel's text.  As the default value of a parameter, here() is the caller's place.
struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// barriers.cpp
struct Votes { int count; bool all, any; };
Votes barrier(bool vote, Where at);
void sync_warp(uint32_t mask, Where at);
enum Shuffle { INDEX, UP, DOWN, XOR };
uint64_t shuffle(uint32_t mask, uint64_t value, Shuffle kind, int argument, int width, Where at);
uint32_t ballot(uint32_t mask, bool vote, Where at);

// tensor.cpp
void copy_async(void* to, const void* from, int bytes, int from_bytes);
void commit_copies();
void wait_copies(int groups_still_open);
void load_matrices(uint32_t* words, int matrices, const void* row, Where at);
void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where at);

// launch.cpp, machine.cpp
void* copy_memory(void* to, const void* from, size_t bytes);
void* set_memory(void* to, int value, size_t bytes);
void declare_shared(void* begin, size_t bytes, const char* name);
void* dynamic_shared();
enum Atomic { ADD, SUBTRACT, MINIMUM, MAXIMUM, AND, OR, EXCLUSIVE_OR, EXCHANGE, EXCHANGE_IF };
uint64_t atomic(void* address, int bytes, bool is_signed, Atomic kind, uint64_t value, uint64_t expected);
[[noreturn]] void trap(const char* what, Where at);

}  // namespace cuemu

#pragma GCC visibility pop
