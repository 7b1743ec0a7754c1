// Where a sum is shared out over blocks: which of its `steps` the block that is `part` of `parts` adds up, as evenly as
// whole steps can be. conv_sum_parts (passes.cu) adds up what the blocks have written, in order.
struct Share { int first, count; };

__device__ __forceinline__ Share share_of(int steps, int part, int parts) {
  return {steps / parts * part + min(part, steps % parts), steps / parts + (part < steps % parts ? 1 : 0)};
}
