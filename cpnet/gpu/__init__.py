"""The room of the GPU: all that knows how a GPU is talked to. What is computed there is in cpnet/ops.

    platform.py   what a GPU must offer, method by method; nvidia.py does it with CuPy
    devices.py    where a net's shares lie: the CPU, or GPUs by number; which are chosen if nobody says
    memory.py     arrays on GPUs: allocated, copied, waited for
    kernels.py    a kernel's text compiled, its arguments checked, its launch; source.py reads the .cu files
    graph.py      a training step as CUDA graphs
    feed.py       a data set's batches on their way to the devices
"""
