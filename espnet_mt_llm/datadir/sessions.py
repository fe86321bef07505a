"""A data directory recording by recording: what belongs to one of them at a time, never all of it in memory."""

import math
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Iterator, Optional

import numpy as np

from espnet_mt_llm.common import Pathlike
from espnet_mt_llm.datadir.kaldi import Utterance, duration_reader, parse_channel, read_recordings, read_utterances
from espnet_mt_llm.datadir.maps import Lookup, is_signal

MANIFEST = "mixtures.jsonl"


@dataclass(frozen=True)
class Session:
    """One recording and what its data directory has of it.

    Attributes:
        entries: ``wav.scp`` and the maps of clean sources (``spk1.scp`` …) -> the recording's entry there.
        manifest: its line of ``mixtures.jsonl``; None where it is not simulated.
        utterances: sorted by id; without ``segments`` and ``reco2dur`` the end is infinite.
    """

    path: Path
    rec: str
    entries: dict[str, str]
    manifest: Optional[str]
    channel_line: Optional[str]
    utterances: list[Utterance]

    @property
    def channel(self) -> Optional[int]:
        """Return which channel (from 1) of the file is used; None for a mono file.

        Raises:
            UserError: the file ``channel`` says something else than a number.
        """
        return parse_channel(self.path, self.rec, self.channel_line)


class Sessions:
    """The recordings of one of several jobs, sorted by id.

    The utterances of a directory are sorted by speaker, so those of a recording stand anywhere: they go to a nameless
    temporary file, and 12 bytes each remain in memory.

    Args:
        path: the data directory.
        work: a directory for the temporary file.
        job, num_jobs: every ``num_jobs``-th recording is taken, from the ``job``-th (from 1) on.

    Raises:
        UserError: file and line of what cannot be read.
    """

    def __init__(self, path: Pathlike, work: Path, job: int = 1, num_jobs: int = 1):
        self.path, self._work = Path(path), work
        recs = [rec for rec, _ in read_recordings(self.path)]
        self._known = frozenset(recs)
        self.recs = sorted(recs)[job - 1 :: num_jobs]
        self.signals = ["wav.scp", *sorted(f.name for f in self.path.iterdir() if is_signal(f.name) and f.is_file())]
        self.simulated = (self.path / MANIFEST).exists()

    def __iter__(self) -> Iterator[Session]:
        """Yield the recordings.

        Raises:
            UserError: file and line of what cannot be read.
        """
        signals = {name: Lookup(self.path / name) for name in self.signals}
        manifest = Lookup(self.path / MANIFEST) if self.simulated else None
        channels = Lookup(self.path / "channel") if (self.path / "channel").exists() else None
        self._work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._work) as spilled:
            places, bounds = self._spill(spilled)
            for i, rec in enumerate(self.recs):
                found = {name: lookup.get(rec) for name, lookup in signals.items()}
                yield Session(
                    self.path,
                    rec,
                    {name: entry for name, entry in found.items() if entry is not None},
                    manifest.get(rec) if manifest else None,
                    channels.get(rec) if channels else None,
                    sorted(_read(spilled, rec, places[bounds[i] : bounds[i + 1]]), key=lambda u: u.utt),
                )

    def _spill(self, spilled: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
        """Write the utterances; those of recording i stand at the bytes ``places[bounds[i]:bounds[i + 1]]``."""
        number = {rec: i for i, rec in enumerate(self.recs)}
        seconds = duration_reader(self.path)

        def length(rec: str) -> float:
            found = seconds(rec)
            return math.inf if found is None else found

        which, places, place = array("i"), array("q"), 0
        for u in read_utterances(self.path, self._known, length):
            if u.rec in number:
                which.append(number[u.rec])
                places.append(place)
                place += spilled.write(f"{u.utt}\t{u.spk}\t{u.start!r}\t{u.end!r}\t{u.text}\n".encode())
        owner = np.frombuffer(which, np.dtype("i")) if which else np.zeros(0, np.dtype("i"))
        order = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[order], np.arange(len(self.recs) + 1))
        return np.array(places, np.int64)[order], bounds


def _read(spilled: BinaryIO, rec: str, places: np.ndarray) -> Iterator[Utterance]:
    for place in places.tolist():
        spilled.seek(place)
        utt, spk, start, end, text = spilled.readline().decode()[:-1].split("\t")
        yield Utterance(utt, rec, spk, float(start), float(end), text)
