"""Operations that only the studies use, each with its CUDA text beside it as in cpnet/ops:
the search for neighbours, and the auto-encoder's error."""
