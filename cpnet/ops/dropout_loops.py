"""The CPU's loops of dropout; dropout.py has the definitions, and dropout.cu is the same for a GPU."""
import numpy as np
from numba import uint32, uint64

from data.compiled import compiled, inlined


@inlined
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox: a counter of four words and a key of two → four words."""
    for _ in range(10):
        product0, product1 = uint64(0xD2511F53) * uint64(c0), uint64(0xCD9E8D57) * uint64(c2)
        c0, c1, c2, c3 = (uint32(product1 >> uint64(32)) ^ c1 ^ k0, uint32(product1),
                          uint32(product0 >> uint64(32)) ^ c3 ^ k1, uint32(product0))
        k0, k1 = uint32(k0 + uint32(0x9E3779B9)), uint32(k1 + uint32(0xBB67AE85))
    return c0, c1, c2, c3


@compiled
def dropout_mask(first_unit, first_image, layer, step, key0, key1, threshold, mask):
    """mask bool (units, N): each call of the generator serves four images of a unit."""
    units, images = mask.shape
    first = first_image // 4
    fours = (first_image + images + 3) // 4 - first
    words = np.empty((4, fours), np.uint32)
    for u in range(units):
        for f in range(fours):
            words[0, f], words[1, f], words[2, f], words[3, f] = philox4x32(
                uint32(first + f), uint32(first_unit + u), uint32(layer), uint32(step),
                uint32(key0), uint32(key1))
        for n in range(images):
            at = first_image + n
            mask[u, n] = words[at % 4, at // 4 - first] >= threshold
