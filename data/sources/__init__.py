"""Where images come from: what a folder holds (recognise.py), each kind of it (folders, tars and development
kits of ILSVRC, CIFAR-10, IDX), one image file as the pixels that a net takes (image.py),
and how a validation set is split off."""
