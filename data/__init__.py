"""The data path: one HDF5 file per data set, how it is made, and the threads that turn it into batches."""
