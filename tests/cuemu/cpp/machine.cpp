// Fibers, the scheduler, and one block.
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuemu {

Thread threads[MAX_THREADS];
Warp warps[MAX_WARPS];
Block block;
Thread* current;
Launch* launch;
Fault* fault;
uint32_t epoch, block_epoch;

// ---- fibers ---------------------------------------------------------------------------------------------------------

constexpr size_t STACK = 128 << 10, GUARD = 4096;
static char* stacks;
static int free_stacks[MAX_THREADS], free_count;
static void* launcher;                           // stack pointer of the code that launched the kernel

// Saves the callee-saved registers on this stack and its pointer in *save; continues on the stack `to`.
extern "C" void cuemu_switch(void** save, void* to);
asm(R"(
.text
.hidden cuemu_switch
.globl cuemu_switch
.type cuemu_switch,@function
cuemu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

bool on_stacks(const void* address) { return (size_t)((const char*)address - stacks) < MAX_THREADS * STACK; }

static void allocate_stacks() {
  if (stacks) return;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  stacks = (char*)mmap(nullptr, MAX_THREADS * STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
  for (int i = 0; i < MAX_THREADS; i++) mprotect(stacks + i * STACK, GUARD, PROT_NONE);
}

static void fiber();

static void start(Thread& thread) {
  thread.stack = free_stacks[--free_count];
  // Different threads start at different offsets, so that their locals do not compete for the same cache lines.
  void** top = (void**)(stacks + (thread.stack + 1) * STACK - 64 - (thread.stack * 448 & 4032));
  *--top = nullptr;                              // fiber() finds the stack as if it had been called: rsp % 16 == 8
  *--top = (void*)fiber;
  for (int i = 0; i < 6; i++) *--top = nullptr;  // the registers that cuemu_switch pops
  thread.stack_pointer = top;
  thread.state = READY;
}

static void switch_to(void** save, Thread& thread) {
  current = &thread;
  threadIdx = thread.index;
  if (thread.state == NEW) start(thread);
  cuemu_switch(save, thread.stack_pointer);
}

[[noreturn]] static void switch_to_launcher() {
  void* abandoned;
  cuemu_switch(&abandoned, launcher);
  __builtin_unreachable();
}

// ---- scheduler ------------------------------------------------------------------------------------------------------

static uint16_t ready[MAX_THREADS];              // a ring of thread numbers
static int ready_first, ready_count;
static uint64_t random_state;

void seed_random(uint64_t seed) {
  random_state = seed * 0x9E3779B97F4A7C15ull | 1;
  for (int i = 0; i < 4; i++) random_below(1);
}

uint32_t random_below(uint32_t limit) {
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return (random_state >> 16 & 0xffffffff) * limit >> 32;
}

static void push_ready(Thread& thread) { ready[(ready_first + ready_count++) % MAX_THREADS] = thread.number; }

static Thread& pop_ready() {
  if (launch->seed && ready_count > 1) {
    uint16_t& drawn = ready[(ready_first + random_below(ready_count)) % MAX_THREADS];
    const uint16_t number = drawn;
    drawn = ready[ready_first];
    ready[ready_first] = number;
  }
  Thread& thread = threads[ready[ready_first]];
  ready_first = (ready_first + 1) % MAX_THREADS;
  ready_count--;
  return thread;
}

void wake(Thread& thread) {
  thread.state = READY;
  push_ready(thread);
}

[[noreturn]] static void deadlock() {
  char list[600] = "";
  int length = 0, shown = 0;
  Thread* first = nullptr;
  for (int i = 0; i < block.threads && shown < 4; i++) {
    const Thread& t = threads[i];
    if (t.state != AT_BARRIER && t.state != IN_WARP_OPERATION) continue;
    if (first && t.state == first->state && t.at.line == first->at.line) continue;
    length += snprintf(list + length, sizeof list - length, "%sthread %d waits at %s:%d for %s", shown++ ? "; " : "", i,
                       t.at.file, t.at.line, t.state == AT_BARRIER ? "its block" : "lanes of its warp");
    first = &threads[i];
  }
  current = first;
  fail("deadlock", first->at, "no thread can go on: %s", list);
}

void run_other() {
  check_time(nullptr);
  Thread* me = current;
  if (!ready_count) deadlock();
  Thread& next = pop_ready();
  if (&next != me) switch_to(&me->stack_pointer, next);
}

// Runs the kernel for the current thread, then for threads that have not started, then makes way for one that waits.
static void fiber() {
  for (;;) {
    launch->kernel(launch->arguments);
    Thread& me = *current;
    leave_block(me);
    if (!block.alive) switch_to_launcher();
    if (!ready_count) deadlock();
    Thread& next = pop_ready();
    if (next.state == NEW) {                     // on the same stack: cheaper than a switch
      next.stack = me.stack;
      next.state = READY;
      current = &next;
      threadIdx = next.index;
    } else {
      free_stacks[free_count++] = me.stack;
      switch_to(&me.stack_pointer, next);
    }
  }
}

// ---- faults ---------------------------------------------------------------------------------------------------------

[[noreturn]] static void report(const char* kind, const char* format, va_list values) {
  vsnprintf(fault->message, sizeof fault->message, format, values);
  fault->kind = kind;
  const uint3 thread = current->index;
  memcpy(fault->block, &blockIdx, sizeof blockIdx);
  memcpy(fault->thread, &thread, sizeof thread);
  switch_to_launcher();
}

void fail(const char* kind, void* code, const char* format, ...) {
  fault->code = (char*)code - launch->image;
  va_list values;
  va_start(values, format);
  report(kind, format, values);
}

void fail(const char* kind, Where at, const char* format, ...) {
  fault->file = at.file;
  fault->line = at.line;
  va_list values;
  va_start(values, format);
  report(kind, format, values);
}

void trap(const char* what, Where at) { fail("trap", at, "%s", what); }

// ---- one block ------------------------------------------------------------------------------------------------------

void run_block(uint3 index) {
  allocate_stacks();
  blockIdx = index;
  block_epoch = ++epoch;
  block.alive = block.threads;
  block.arrived = 0;
  block.votes = {0, true, false};
  ready_first = ready_count = free_count = 0;
  for (int i = MAX_THREADS - 1; i >= 0; i--) free_stacks[free_count++] = i;
  for (int i = 0; i < block.threads; i++) {
    threads[i].state = NEW;
    threads[i].copies.clear();
    threads[i].groups.clear();
    push_ready(threads[i]);
  }
  for (int i = 0; i < block.warps; i++) {
    warps[i].exited = 0;
    warps[i].phase = 0;
    memset(warps[i].arrived, 0, sizeof warps[i].arrived);
  }
  switch_to(&launcher, pop_ready());
}

}  // namespace cuemu
