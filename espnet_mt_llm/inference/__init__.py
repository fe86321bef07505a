"""Decoding a data directory."""
