"""One file a corpus: raw layout to Kaldi data directories."""
