"""Building blocks, one idea a file; they import torch alone."""
