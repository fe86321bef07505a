"""Mixtures and conversations, each from a seeded manifest."""
