"""What crosses between devices (section 3.2).

A net of `columns` columns is placed on D devices, D dividing the columns: device d holds columns d·columns/D
… as one contiguous block of channels. Only at layers that read all columns do the devices communicate:
forward gathers the others' channels, backward sums every device's gradient for one's own.
On one device both are free.
"""
import numpy as np

from cpnet.gpu import memory
from cpnet.ops import pointwise


def gather(blocks, receivers):
    """Channel blocks (C/D, …), one of each device → for each of `receivers` all channels (C, …), in order.

    receivers: for each device that wants them, its layer, for device and memory.
    A single block is not copied.
    """
    if len(blocks) == 1:
        return list(blocks)
    shape = (sum(len(block) for block in blocks), *blocks[0].shape[1:])
    wholes = [receiver.buffer("gathered", shape, blocks[0].dtype) for receiver in receivers]
    starts = np.cumsum([0, *(len(block) for block in blocks)])
    memory.copy([(whole[start:start + len(block)], block) for whole in wholes
                 for start, block in zip(starts, blocks, strict=False)])
    return wholes


def scatter_sum(gradients, receivers):
    """Gradients of all channels (C, …), one of each device that has one → for each of
    `receivers` its own block's sum.

    Added in the order of the devices, so that the same run gives the same bits.
    A single gradient is copied only to another device.
    """
    each = len(gradients[0]) // len(receivers)
    blocks, copies = [], []
    for d, receiver in enumerate(receivers):
        blocks.append([gradient[d * each:(d + 1) * each] for gradient in gradients])
        for k, block in enumerate(blocks[d]):
            if not receiver.device.holds(block):
                blocks[d][k] = receiver.buffer(f"received {k}", block.shape, block.dtype)
                copies.append((blocks[d][k], block))
    memory.copy(copies)
    sums = []
    for receiver, (total, *others) in zip(receivers, blocks, strict=True):
        for k, block in enumerate(others):
            out = receiver.buffer("summed", total.shape, total.dtype) if k == 0 else total
            total = pointwise.add(total, block, out=out)
        sums.append(total)
    return sums
