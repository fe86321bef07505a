"""Multi-talker speech recognition: who said what, when, in overlapping speech."""

__version__ = "0.1.0"
