"""Sort more lines than fit into memory."""

import heapq
import sys
import tempfile
from contextlib import ExitStack
from typing import Iterator, TextIO

from espnet_mt_llm.common import Pathlike


class SortedLines:
    """Lines that come in any order and go out sorted by code points, as LC_ALL=C sorts them.

    Up to ``max_bytes`` are held; beyond that, sorted runs go to nameless temporary files in ``directory``.
    """

    def __init__(self, directory: Pathlike, max_bytes: int = 32 << 20):
        self._directory = directory
        self._max_bytes = max_bytes
        self._lines: list[str] = []
        self._bytes = 0
        self._runs: list[TextIO] = []
        self._files = ExitStack()

    def __enter__(self) -> "SortedLines":
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()

    def add(self, line: str) -> None:
        """Add a line; it holds no line break."""
        self._lines.append(line)
        self._bytes += sys.getsizeof(line)
        if self._bytes > self._max_bytes:
            run = self._files.enter_context(
                tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=self._directory))
            run.writelines(line + "\n" for line in sorted(self._lines))
            self._runs.append(run)
            self._lines, self._bytes = [], 0

    def __iter__(self) -> Iterator[str]:
        for run in self._runs:
            run.seek(0)
        stored = ((line.removesuffix("\n") for line in run) for run in self._runs)
        return heapq.merge(*stored, sorted(self._lines))
