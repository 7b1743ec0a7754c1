"""From the file to batches: threads (loader.py, ring.py) that take images in a seeded order (order.py),
see them as drawn or as fixed (augment.py), and lay a batch out for a GPU in one piece (packed.py)."""
