"""Normalisation profiles, token lists, and the serialisation of who said what."""
