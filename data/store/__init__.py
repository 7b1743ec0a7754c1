"""The HDF5 file: its layout and reading (dataset.py), its pixels past the HDF5 library (pixels.py, crops.py),
its writing (writer.py, part.py, begun.py), the list of what is not in it (skipped.py), and the training set's
mean and colours (moments.py)."""
