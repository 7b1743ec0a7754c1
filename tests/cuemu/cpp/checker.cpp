// Check mode: every load and store of a kernel comes to check_access() before it happens.
//
// For each 4-byte word of global and shared memory a Cell remembers the last write and the last reads.  Two accesses to
// a word, one of them a write, must be ordered: by a block barrier (they differ in `epoch`), or within a warp by
// __syncwarp() (they differ in the warp's `phase`).  Nothing orders accesses of different blocks.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "machine.h"

namespace cuemu {

struct Cell {
  uint32_t written, read;              // epochs; 0: not in this launch
  uint32_t write_code, read_code;      // by which code, as offsets into the kernel's library
  uint16_t writer, reader;             // thread numbers; the reader may be SEVERAL or ONE_WARP + warp
  uint16_t write_phase, read_phase;
  uint8_t how;                         // how it was written: ATOMIC, COPY while a cp.async is in flight
  bool blocks_read;                    // read by more than one block
};
constexpr uint16_t SEVERAL = 0xffff, ONE_WARP = 0x8000;

struct Region {
  char *begin, *end;
  Cell* cells;
  int shift;                           // a cell is 1 << shift bytes: 4, or 1 once an access was not of whole words
  int array;                           // an array argument's number, or -1: shared memory
  const char* name;                    // of a shared variable; null: dynamic shared memory
  uint8_t* written;                    // of an array declared uninitialised
};
static std::vector<Region> regions;
static size_t recent;                  // the region found last
static uint64_t steps;
static double deadline;

static double seconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

void check_time(void* code) {
  if (!launch->check || ++steps % (1 << 20) || seconds() < deadline) return;
  const char* message = "the kernel has not finished within %g s";
  if (code) fail("timeout", code, message, launch->timeout);
  fail("timeout", current->at, message, launch->timeout);
}

static void add_region(char* begin, size_t bytes, int array, const char* name, uint8_t* written) {
  regions.push_back({begin, begin + bytes, (Cell*)calloc(bytes / 4 + 1, sizeof(Cell)), 2, array, name, written});
}

void begin_checks() {
  recent = steps = 0;
  deadline = seconds() + launch->timeout;
  for (uint32_t i = 0; i < launch->array_count; i++) {
    const Array& a = launch->arrays[i];
    add_region(a.begin, a.bytes, i, nullptr, a.written);
  }
}

void add_shared(char* begin, size_t bytes, const char* name) {
  if (launch->check) add_region(begin, bytes, -1, name, nullptr);
}

void end_checks() {
  for (const Region& r : regions) free(r.cells);
  regions.clear();
}

static Region* find(const char* p, size_t bytes) {
  auto holds = [&](const Region& r) { return p >= r.begin && p + bytes <= r.end; };
  if (recent < regions.size() && holds(regions[recent])) return &regions[recent];
  for (size_t i = 0; i < regions.size(); i++)
    if (holds(regions[i])) return &regions[recent = i];
  return nullptr;
}

bool is_shared(const void* address) {
  const Region* r = find((const char*)address, 1);
  return r && r->array < 0;
}

// Cells of one byte each, for arrays of bytes that different threads write.
static void refine(Region& r) {
  const size_t bytes = r.end - r.begin;
  Cell* fine = (Cell*)calloc(bytes + 1, sizeof(Cell));
  for (size_t i = 0; i < bytes; i++) fine[i] = r.cells[i / 4];
  free(r.cells);
  r.cells = fine;
  r.shift = 0;
}

static bool is_builtin_variable(const char* p) {
  auto in = [p](const void* variable, size_t bytes) { return (size_t)(p - (const char*)variable) < bytes; };
  return in(&threadIdx, 12) || in(&blockIdx, 12) || in(&blockDim, 12) || in(&gridDim, 12);
}

// ---- faults.  {array} and {other} are filled in by the Python side, which knows names, shapes and line numbers. -----

static const char* name_of(const Region& r) {
  static char text[80];
  if (r.array >= 0) return "{array}";
  if (!r.name) return "dynamic shared memory";
  snprintf(text, sizeof text, "__shared__ %s", r.name);
  return text;
}

static const char* place(const Region& r, const char* p) {
  static char text[120];
  fault->array = r.array;
  fault->offset = p - r.begin;
  if (r.array >= 0) return "{array}";
  snprintf(text, sizeof text, "%s at byte %td", name_of(r), p - r.begin);
  return text;
}

static const char* verb(int how) { return how & ATOMIC ? "atomic" : how & WRITE ? "write" : "read"; }

[[noreturn]] static void out_of_bounds(const char* p, size_t bytes, int how, void* code) {
  const Region* nearest = nullptr;
  long best = 4l << 30;
  for (const Region& r : regions) {
    const long distance = p < r.begin ? r.begin - p : p + bytes - r.end;
    if (distance < best) best = distance, nearest = &r;
  }
  if (!nearest) fail("out of bounds", code, "%s of %zu bytes at %p, near no array", verb(how), bytes, (const void*)p);
  const char* side = p < nearest->begin ? "before the start of" : "past the end of";
  fault->array = nearest->array;
  fault->offset = -1;
  fail("out of bounds", code, "%s of %zu bytes reaches %ld bytes %s %s", verb(how), bytes, best, side, name_of(*nearest));
}

[[noreturn]] static void race(const Region& r, const char* p, int how, void* code, const char* other,
                              uint32_t other_code) {
  fault->other_code = other_code;
  fail("race", code, "this %s of %s and the %s at {other} are not ordered", verb(how), place(r, p), other);
}

// ---- one access -----------------------------------------------------------------------------------------------------

// Whether __syncwarp() came between an access by a thread of this warp in `phase` and now.
static bool ordered_by_warp(int warp, uint16_t phase) { return warp == current->warp && phase != warps[warp].phase; }

static bool conflicts_with_write(const Cell& c, int how) {
  if (!c.written || (how & c.how & ATOMIC)) return false;
  if (c.written < block_epoch) return true;
  return c.written == epoch && c.writer != current->number && !ordered_by_warp(c.writer / WARP, c.write_phase);
}

static bool conflicts_with_reads(const Cell& c) {
  if (!c.read) return false;
  if (c.read < block_epoch || c.blocks_read) return true;
  if (c.read != epoch || c.reader == current->number) return false;
  if (c.reader == SEVERAL) return true;
  return !ordered_by_warp(c.reader & ONE_WARP ? c.reader - ONE_WARP : c.reader / WARP, c.read_phase);
}

static void note_read(Cell& c, uint32_t code) {
  const int me = current->number, warp = current->warp;
  if (c.read && c.read < block_epoch) c.blocks_read = true;
  if (c.read != epoch) c.reader = me;
  else if (c.reader != me) {
    const int before = c.reader == SEVERAL ? -1 : c.reader & ONE_WARP ? c.reader - ONE_WARP : c.reader / WARP;
    c.reader = before == warp ? ONE_WARP + warp : SEVERAL;
  }
  c.read = epoch;
  c.read_phase = warps[warp].phase;
  c.read_code = code;
}

static void note_write(Cell& c, int how, uint32_t code) {
  c.written = epoch;
  c.writer = current->number;
  c.write_phase = warps[current->warp].phase;
  c.how = how;
  c.write_code = code;
}

static void check_global_written(const Region& r, const char* p, size_t bytes, int how, void* code) {
  uint8_t* written = r.written + (p - r.begin);
  if (how & WRITE) memset(written, 1, bytes);
  else
    for (size_t i = 0; i < bytes; i++)
      if (!written[i] && (uint8_t)p[i] == 0xff)  // nor has the host, since it was allocated
        fail("uninitialised", code, "read of %s, which nothing has written", place(r, p));
}

// Shared memory starts afresh in every block.
static void forget_other_blocks(Cell& c) {
  if (c.written < block_epoch) c.written = c.how = 0;
  if (c.read < block_epoch) c.read = 0;
}

static void check_cell(Region& r, const char* p, Cell& c, int how, void* code) {
  const uint32_t my_code = (char*)code - launch->image;
  if (r.array < 0) {
    forget_other_blocks(c);
    if (!(how & WRITE) && !c.written)
      fail("uninitialised", code, "read of %s, which this block has not written", place(r, p));
  }
  if (c.how & COPY) {
    fault->other_code = c.write_code;
    fail("unwaited copy", code, "%s of %s, but nobody has waited for the cp.async at {other}", verb(how), place(r, p));
  }
  if (conflicts_with_write(c, how)) {
    char other[60];
    snprintf(other, sizeof other, c.written < block_epoch ? "write by another block" : "write by thread %d", c.writer);
    race(r, p, how, code, other, c.write_code);
  }
  if (!(how & WRITE)) return note_read(c, my_code);
  if (conflicts_with_reads(c)) {
    const bool other_block = c.read < block_epoch || c.blocks_read;
    race(r, p, how, code, other_block ? "read by another block" : "read by another thread", c.read_code);
  }
  note_write(c, how, my_code);
}

void check_access(const void* address, size_t bytes, int how, void* code) {
  if (!launch->check) return;
  const char* p = (const char*)address;
  if (on_stacks(p)) return;                      // locals and arguments
  check_time(code);
  Region* r = find(p, bytes);
  if (!r) {
    if (!(how & WRITE) && (is_builtin_variable(p) || (p >= launch->image && p < launch->image_end))) return;
    out_of_bounds(p, bytes, how, code);
  }
  const size_t offset = p - r->begin;
  if ((offset | bytes) & ((1 << r->shift) - 1)) refine(*r);
  const size_t first = offset >> r->shift, end = (offset + bytes) >> r->shift;
  for (size_t i = first; i < end; i++) check_cell(*r, r->begin + (i << r->shift), r->cells[i], how, code);
  if (r->written) check_global_written(*r, p, bytes, how, code);
}

// A cp.async has landed: from now on it is as if the thread that waited for it had written there.
void check_landed(const void* address, size_t bytes, void* code) {
  if (!launch->check) return;
  Region& r = *find((const char*)address, bytes);
  const size_t offset = (const char*)address - r.begin;
  const uint32_t my_code = (char*)code - launch->image;
  for (size_t i = offset >> r.shift; i < (offset + bytes) >> r.shift; i++) note_write(r.cells[i], WRITE, my_code);
}

void check_alignment(const void* address, Where at) {
  if (const Region* r = find((const char*)address, 1))
    fail("misaligned", at, "vector access of %s", place(*r, (const char*)address));
  fail("misaligned", at, "vector access of a local variable");
}

}  // namespace cuemu
