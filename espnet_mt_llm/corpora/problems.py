"""Sessions that cannot be prepared; see :mod:`espnet_mt_llm.datadir.problems`."""

from espnet_mt_llm.datadir.problems import Problems

__all__ = ["Problems"]
