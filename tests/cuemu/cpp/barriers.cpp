// Block barriers and warp operations: who waits for whom, and what is not allowed.
#include "machine.h"

#include <string.h>

namespace cuemu {

static bool same(Where a, Where b) { return a.line == b.line && !strcmp(a.file, b.file); }

// ---- the block ------------------------------------------------------------------------------------------------------

Votes barrier(bool vote, Where at) {
  if (block.alive != block.threads)
    fail("divergent barrier", at, "__syncthreads(), but %d of %d threads have already left the kernel",
         block.threads - block.alive, block.threads);
  if (!block.arrived) block.barrier = at;
  else if (!same(block.barrier, at))
    fail("divergent barrier", at, "this thread is at a __syncthreads() here while others wait at %s:%d",
         block.barrier.file, block.barrier.line);
  block.votes.count += vote;
  block.votes.all &= vote;
  block.votes.any |= vote;
  current->at = at;
  current->state = AT_BARRIER;
  if (++block.arrived == block.threads) {
    block.result = block.votes;
    block.votes = {0, true, false};
    block.arrived = 0;
    epoch++;
    for (int i = 0; i < block.threads; i++) wake(threads[i]);
  }
  run_other();
  return block.result;                           // still this barrier's: the next one waits for this thread too
}

void leave_block(Thread& thread) {
  thread.state = DONE;
  block.alive--;
  Warp& warp = warps[thread.warp];
  warp.exited |= 1u << thread.lane;
  if (!thread.copies.empty())
    fail("unwaited copy", thread.copies[0].code, "the kernel ended before this cp.async was waited for");
  if (block.arrived)
    fail("divergent barrier", block.barrier, "a thread left the kernel while %d others wait here", block.arrived);
  release_warp_operations(warp);
}

// ---- the warp -------------------------------------------------------------------------------------------------------

// Performs the operation that the lanes in mask wait in, if none is missing.  Lanes that have left are not missed.
static void try_operation(Warp& warp, uint32_t mask) {
  const int slot = __builtin_ctz(mask);
  const uint32_t lanes = mask & warp.present & ~warp.exited;
  if (!lanes || (warp.arrived[slot] & lanes) != lanes) return;
  warp.arrived[slot] = 0;
  if (warp.operation) warp.operation(warp, lanes);
  else warp.phase++;                             // __syncwarp() orders memory; shuffles and votes do not
  for (uint32_t left = lanes; left; left &= left - 1) wake(warp.lanes[__builtin_ctz(left)]);
}

void release_warp_operations(Warp& warp) {
  for (uint32_t arrived : warp.arrived)
    if (arrived) try_operation(warp, warp.lanes[__builtin_ctz(arrived)].mask);
}

// The current thread takes part in an operation of the lanes in mask; the last to arrive performs it for all.
void warp_operation(uint32_t mask, WarpOperation operation, Where at) {
  Thread& me = *current;
  Warp& warp = warps[me.warp];
  if (!(mask >> me.lane & 1))
    fail("divergent warp", at, "the calling lane %d is not in the mask 0x%08x", me.lane, mask);
  for (uint32_t arrived : warp.arrived) {
    if (!arrived) continue;
    const Thread& other = warp.lanes[__builtin_ctz(arrived)];
    if ((other.mask & mask) && (other.mask != mask || !same(other.at, at)))
      fail("divergent warp", at, "a warp operation of the lanes 0x%08x here, while lane %d waits at %s:%d with 0x%08x",
           mask, other.lane, other.at.file, other.at.line, other.mask);
  }
  me.mask = mask;
  me.at = at;
  me.state = IN_WARP_OPERATION;
  warp.arrived[__builtin_ctz(mask)] |= 1u << me.lane;
  warp.operation = operation;
  try_operation(warp, mask);
  run_other();
}

void sync_warp(uint32_t mask, Where at) { warp_operation(mask, nullptr, at); }

uint32_t ballot(uint32_t mask, bool vote, Where at) {
  Thread& me = *current;
  me.in[0] = vote;
  warp_operation(mask, [](Warp& warp, uint32_t lanes) {
    uint32_t votes = 0;
    for (uint32_t left = lanes; left; left &= left - 1)
      votes |= warp.lanes[__builtin_ctz(left)].in[0] << __builtin_ctz(left);
    for (uint32_t left = lanes; left; left &= left - 1) warp.lanes[__builtin_ctz(left)].out[0] = votes;
  }, at);
  return me.out[0];
}

// The lane whose value this lane gets, itself where the wanted one lies outside its segment of `width` lanes.
static int source_lane(int lane, Shuffle kind, int argument, int width) {
  const int first = lane & ~(width - 1), end = first + width;
  switch (kind) {
    case INDEX: return first + (argument & (width - 1));
    case UP: return lane - argument >= first ? lane - argument : lane;
    case DOWN: return lane + argument < end ? lane + argument : lane;
    default: return (lane ^ argument) < end ? lane ^ argument : lane;
  }
}

uint64_t shuffle(uint32_t mask, uint64_t value, Shuffle kind, int argument, int width, Where at) {
  Thread& me = *current;
  memcpy(me.in, &value, 8);
  me.in[2] = source_lane(me.lane, kind, argument, width);
  warp_operation(mask, [](Warp& warp, uint32_t lanes) {
    for (uint32_t left = lanes; left; left &= left - 1) {
      Thread& t = warp.lanes[__builtin_ctz(left)];
      if (lanes >> t.in[2] & 1) memcpy(t.out, warp.lanes[t.in[2]].in, 8);
      else t.out[0] = t.out[1] = 0x7fbadbad;     // undefined: the other lane takes no part
    }
  }, at);
  memcpy(&value, me.out, 8);
  return value;
}

}  // namespace cuemu
