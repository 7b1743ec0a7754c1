"""The operations: one module each, forward and backward side by side.
Start with `lrn.py`, then `conv/definition.py`."""
