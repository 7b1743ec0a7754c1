// The simulated machine as the runtime's own files see it.
//
// One block runs at a time, on one CPU thread; each CUDA thread is a fiber, a stack of its own that runs until it must
// wait (at a barrier, in a warp operation) and then hands over to another.  Which one is drawn at random.
#pragma once
#include <vector>

#include "runtime.h"

namespace cuemu {

constexpr int MAX_THREADS = 1024, WARP = 32, MAX_WARPS = MAX_THREADS / WARP;

enum State : uint8_t { NEW, READY, AT_BARRIER, IN_WARP_OPERATION, DONE };

struct Copy { void* to; const void* from; int bytes, from_bytes; void* code; };  // a cp.async that has not landed

struct Thread {
  uint3 index;
  int number, warp, lane;
  State state;
  void* stack_pointer;
  int stack;                     // which of the stacks
  Where at;                      // where it waits
  uint32_t mask;                 // the lanes it waits for
  uint32_t in[12], out[4];       // operands and results of a warp operation
  std::vector<Copy> copies;
  std::vector<int> groups;       // copies in each committed group, oldest first
};

struct Warp;
using WarpOperation = void (*)(Warp&, uint32_t lanes);

struct Warp {
  Thread* lanes;
  uint32_t present, exited;      // as bits
  uint32_t arrived[WARP];        // lanes waiting in an operation, by the lowest lane of its mask
  WarpOperation operation;
  uint16_t phase;                // how many __syncwarp() it has passed in this block
};

struct Block {
  int threads, warps, alive, arrived;
  Votes votes, result;           // being collected; of the last barrier
  Where barrier;                 // where the threads that have arrived wait
};

// One array argument, or several that share memory.
struct Array {
  char* data;
  uint64_t bytes;
  uint8_t* written;              // per byte, for arrays declared uninitialised; else null
  int32_t writable;
  int32_t padding;
  char* begin;                   // where the kernel sees it: data, or in check mode a copy far from everything else
};

struct Pointer { int32_t argument, array; uint64_t offset; };

struct Fault {
  const char* kind;              // null: none
  const char* file;
  int64_t line;
  uint64_t code, other_code;     // offsets into the kernel's library: of the access, and of the other one in a race
  int64_t array, offset;         // the array argument concerned, or -1
  uint32_t block[3], thread[3];
  char message[1024];
};

struct Launch {
  void (*kernel)(void**);
  void** arguments;
  char *image, *image_end;       // the kernel library's code and constants
  Array* arrays;
  Pointer* pointers;
  uint32_t array_count, pointer_count;
  uint32_t grid[3], block[3];
  uint32_t dynamic_bytes, dynamic_limit;
  uint64_t seed;                 // 0: in order
  double timeout;                // seconds; check mode only
  uint32_t check;
};

extern Thread threads[MAX_THREADS];
extern Warp warps[MAX_WARPS];
extern Block block;
extern Thread* current;
extern Launch* launch;
extern Fault* fault;
extern uint32_t epoch, block_epoch;  // counts block barriers and blocks; the value at this block's start

bool on_stacks(const void* address);
void run_block(uint3 index);
uint32_t random_below(uint32_t limit);
void seed_random(uint64_t seed);
void run_other();                    // the current thread waits: run another one until it is woken
void wake(Thread&);
void poison(void* begin, size_t bytes);

// Ends the launch.  The first form blames the code that called the runtime (a return address), the second a line.
[[noreturn]] void fail(const char* kind, void* code, const char* format, ...) __attribute__((format(printf, 3, 4)));
[[noreturn]] void fail(const char* kind, Where at, const char* format, ...) __attribute__((format(printf, 3, 4)));

// barriers.cpp
void warp_operation(uint32_t mask, WarpOperation operation, Where at);
void release_warp_operations(Warp&);
void leave_block(Thread&);

// checker.cpp; the first two do nothing in fast mode
enum Access { READ = 0, WRITE = 1, ATOMIC = 2, COPY = 4 };
void check_access(const void* address, size_t bytes, int how, void* code);
void check_landed(const void* address, size_t bytes, void* code);
[[noreturn]] void check_alignment(const void* address, Where at);
bool is_shared(const void* address);
void check_time(void* code);
void begin_checks();
void end_checks();
void add_shared(char* begin, size_t bytes, const char* name);  // null: dynamic

}  // namespace cuemu
