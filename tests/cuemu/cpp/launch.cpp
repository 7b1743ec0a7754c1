// Shared memory, atomics, the grid, and the call from Python.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "machine.h"

namespace cuemu {

// ---- shared memory --------------------------------------------------------------------------------------------------

struct Shared { char* begin; uint32_t block_epoch; };
static std::vector<Shared> shared_variables;
static size_t shared_bytes;
static char* dynamic_begin;

void poison(void* begin, size_t bytes) { memset(begin, 0xff, bytes); }  // NaNs

void* dynamic_shared() { return dynamic_begin; }

// Every thread that passes the declaration of a __shared__ variable comes here.
void declare_shared(void* begin, size_t bytes, const char* name) {
  Shared* variable = nullptr;
  for (Shared& v : shared_variables)
    if (v.begin == begin) variable = &v;
  if (variable && variable->block_epoch == block_epoch) return;
  if (!variable) {
    shared_variables.push_back({(char*)begin, 0});
    variable = &shared_variables.back();
    add_shared((char*)begin, bytes, name);
  }
  variable->block_epoch = block_epoch;           // this is the first thread of its block
  poison(begin, bytes);
  if ((shared_bytes += bytes) > 48 << 10)
    fail("launch", __builtin_return_address(0), "%zu bytes of static shared memory, more than 48 KiB", shared_bytes);
}

// ---- atomics --------------------------------------------------------------------------------------------------------

template <class T>
static uint64_t change(T* p, Atomic kind, uint64_t operand, uint64_t expected) {
  const T old = *p, value = (T)operand;
  switch (kind) {
    case ADD: *p = old + (uint64_t)value; break;
    case SUBTRACT: *p = old - (uint64_t)value; break;
    case MINIMUM: *p = old < value ? old : value; break;
    case MAXIMUM: *p = old > value ? old : value; break;
    case AND: *p = old & value; break;
    case OR: *p = old | value; break;
    case EXCLUSIVE_OR: *p = old ^ value; break;
    case EXCHANGE: *p = value; break;
    case EXCHANGE_IF: *p = old == (T)expected ? value : old; break;
  }
  return (uint64_t)old;
}

uint64_t atomic(void* address, int bytes, bool is_signed, Atomic kind, uint64_t value, uint64_t expected) {
  void* code = __builtin_return_address(0);
  if ((uintptr_t)address % bytes) fail("misaligned", code, "atomic on %d bytes: misaligned address", bytes);
  check_access(address, bytes, WRITE | ATOMIC, code);
  if (bytes == 4 && is_signed) return change((int32_t*)address, kind, value, expected);
  if (bytes == 4) return change((uint32_t*)address, kind, value, expected);
  if (is_signed) return change((int64_t*)address, kind, value, expected);
  return change((uint64_t*)address, kind, value, expected);
}

// ---- memcpy and memset, which the compiler's instrumentation leaves out ---------------------------------------------

void* copy_memory(void* to, const void* from, size_t bytes) {
  check_access(from, bytes, READ, __builtin_return_address(0));
  check_access(to, bytes, WRITE, __builtin_return_address(0));
  return memcpy(to, from, bytes);
}

void* set_memory(void* to, int value, size_t bytes) {
  check_access(to, bytes, WRITE, __builtin_return_address(0));
  return memset(to, value, bytes);
}

// ---- launches -------------------------------------------------------------------------------------------------------

static void set_up_threads() {
  const uint32_t *b = launch->block, count = b[0] * b[1] * b[2];
  block.threads = count;
  block.warps = (count + WARP - 1) / WARP;
  for (uint32_t i = 0; i < count; i++) {
    threads[i].index = {i % b[0], i / b[0] % b[1], i / (b[0] * b[1])};
    threads[i].number = i, threads[i].warp = i / WARP, threads[i].lane = i % WARP;
  }
  for (int i = 0; i < block.warps; i++) {
    const uint32_t left = count - i * WARP;
    warps[i].lanes = &threads[i * WARP];
    warps[i].present = left >= WARP ? ~0u : (1u << left) - 1;
  }
}

// In check mode every array and dynamic shared memory lies alone in 8 GiB of address space, so that an index that is
// wrong by any amount meets nothing else.
static char* spread_out(char*& arena, size_t& arena_bytes) {
  constexpr size_t ROOM = 8ull << 30;
  arena_bytes = (launch->array_count + 1) * ROOM;
  arena = (char*)mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) return nullptr;
  char* place = arena + ROOM / 2;
  for (uint32_t i = 0; i < launch->array_count; i++, place += ROOM) {
    Array& a = launch->arrays[i];
    const size_t misalignment = (uintptr_t)a.data % 256;
    mprotect(place, misalignment + a.bytes, PROT_READ | PROT_WRITE);
    a.begin = place + misalignment;
    memcpy(a.begin, a.data, a.bytes);
  }
  mprotect(place, launch->dynamic_bytes, PROT_READ | PROT_WRITE);
  return place;
}

static void run_grid() {
  const uint32_t* g = launch->grid;
  const uint64_t blocks = (uint64_t)g[0] * g[1] * g[2];
  uint64_t first = 0, step = 1;
  if (launch->seed && blocks > 1) {  // a walk over all blocks, from anywhere, with a stride prime to their number
    first = random_below(blocks);
    auto common = [](uint64_t a, uint64_t b) { while (b) { const uint64_t r = a % b; a = b, b = r; } return a; };
    do step = 1 + random_below(blocks); while (common(step, blocks) != 1);
  }
  for (uint64_t i = 0; i < blocks && !fault->kind; i++) {
    const uint64_t b = (first + i * step) % blocks;
    shared_bytes = 0;
    if (dynamic_begin) poison(dynamic_begin, launch->dynamic_bytes);
    run_block({(unsigned)(b % g[0]), (unsigned)(b / g[0] % g[1]), (unsigned)(b / ((uint64_t)g[0] * g[1]))});
  }
}

extern "C" __attribute__((visibility("default"))) void cuemu_launch(Launch* request, Fault* answer) {
  launch = request;
  fault = answer;
  seed_random(launch->seed);
  gridDim = dim3(launch->grid[0], launch->grid[1], launch->grid[2]);
  blockDim = dim3(launch->block[0], launch->block[1], launch->block[2]);
  set_up_threads();
  shared_variables.clear();
  epoch = 0;

  char* arena = nullptr;
  size_t arena_bytes;
  static char fast_dynamic[256 << 10] __attribute__((aligned(256)));
  dynamic_begin = fast_dynamic;
  for (uint32_t i = 0; i < launch->array_count; i++) launch->arrays[i].begin = launch->arrays[i].data;
  if (launch->check) {
    dynamic_begin = spread_out(arena, arena_bytes);
    if (!dynamic_begin) {
      fault->kind = "launch";
      snprintf(fault->message, sizeof fault->message, "cannot reserve %zu GiB of address space", arena_bytes >> 30);
      return;
    }
    begin_checks();
  }
  if (!launch->dynamic_bytes) dynamic_begin = nullptr;
  else if (launch->check) add_shared(dynamic_begin, launch->dynamic_bytes, nullptr);
  for (uint32_t i = 0; i < launch->pointer_count; i++) {
    const Pointer& p = launch->pointers[i];
    *(char**)launch->arguments[p.argument] = launch->arrays[p.array].begin + p.offset;
  }
  run_grid();
  current = nullptr;
  if (launch->check) {
    end_checks();
    for (uint32_t i = 0; i < launch->array_count; i++) {
      const Array& a = launch->arrays[i];
      if (a.writable) memcpy(a.data, a.begin, a.bytes);
    }
    munmap(arena, arena_bytes);
  }
}

}  // namespace cuemu
