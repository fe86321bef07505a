"""Building blocks, one idea a file; they import torch, and the assignment of streams to talkers SciPy's solver."""
