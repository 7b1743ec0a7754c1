"""The operations: one module each, forward and backward side by side. Start with `lrn.py`, then `definition.py`."""
