"""The 2012 paper's net, written directly on arrays."""

VERSION = "0.9"
