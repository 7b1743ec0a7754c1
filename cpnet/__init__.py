"""cpnet: the 2012 ImageNet convolutional network, written directly on arrays with backward passes by hand."""
__version__ = "0.1.0"
