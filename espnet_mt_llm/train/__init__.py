"""The trainer, the preprocessors and the data plumbing of training."""
