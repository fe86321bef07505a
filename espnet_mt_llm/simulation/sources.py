"""The utterances that mixtures are drawn from, in a few flat columns: a million of them are some hundred megabytes."""

import math
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Iterator, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import Pathlike, at
from espnet_mt_llm.datadir.audio import duration
from espnet_mt_llm.datadir.kaldi import duration_reader, parse_channel, read_recordings, read_utterances
from espnet_mt_llm.datadir.maps import Lookup
from espnet_mt_llm.simulation.manifest import Source

# Directories of sources that need a corpus of their own -> the variable of db.sh that says where it is.
_VARIABLES = {"librispeech_": "LIBRISPEECH", "aishell2_": "AISHELL2"}


class Strings:
    """Strings one after the other in one piece of memory, instead of an object each.

    A process that is forked shares it for good: looking at an object would copy its page, because it counts who does.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def append(self, text: str) -> None:
        """Add a string at the end."""
        self._bytes += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._bytes[self._ends[index]:self._ends[index + 1]].decode("utf-8", "surrogateescape")


class Sources:
    """What drawing needs of one or several data directories: the utterances by speaker, and where their audio is.

    Utterances are counted from 0; those of a speaker are one ``range``, in the order of the directory.

    Args:
        path: the directory, or the one around several, for messages.

    Attributes:
        names: the speakers, sorted.
        of_speaker: the utterances of each.
        source_of: which directory each is from, counted from 0.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = Path(path)
        self.names: list[str] = []
        self.of_speaker: list[range] = []
        self.source_of: list[int] = []
        # By recording.
        self._wavs, self._channels = Strings(), array("H")
        # By row: as the directories have the utterances.
        self._utts, self._texts = Strings(), Strings()
        self._starts, self._ends, self._wav_of = array("d"), array("d"), array("I")
        # The row of each utterance.
        self._rows = array("I")

    @classmethod
    def of(cls, path: Pathlike) -> "Sources":
        """Return the sources of one directory."""
        sources = cls(path)
        sources.add(path, 0)
        return sources

    def add(self, path: Pathlike, number: int, prefix: str = "", alone: bool = False) -> None:
        """Read a directory, the ``number``-th; its speakers get the prefix.

        Args:
            alone: only the utterances that no other one of their recording overlaps.

        Raises:
            UserError: what cannot be read; with the prefix, a speaker has the name of one of another directory.
        """
        path, first = Path(path), len(self._utts)
        speakers: dict[str, int] = {}
        spk_of = array("I", (speakers.setdefault(spk, len(speakers)) for spk in self._read(path)))
        names = [prefix + spk for spk in speakers]
        if twice := sorted(set(names) & set(self.names)):
            raise at(path, None, f"the speaker '{twice[0]}' is in another source, too", "rename the directory")
        chosen = np.arange(first, len(self._utts))
        if not all(a < b for a, b in pairwise(map(self._utts.__getitem__, chosen))):
            chosen = np.array(sorted(chosen, key=self._utts.__getitem__))
        if alone:
            columns = (column[first:] for column in (self._wav_of, self._starts, self._ends))
            chosen = chosen[spoken_alone(*map(np.array, columns))[chosen - first]]
        speaker = np.array(spk_of, np.int64)[chosen - first]
        begin = len(self._rows)
        self._rows.frombytes(chosen[np.argsort(speaker, kind="stable")].astype("I").tobytes())
        ends = (begin + np.cumsum(np.bincount(speaker, minlength=len(names)))).tolist()
        ranges = [range(*bounds) for bounds in pairwise([begin, *ends])]
        rows = [(spk, part, number) for spk, part in zip(names, ranges) if part]
        rows = sorted([*zip(self.names, self.of_speaker, self.source_of), *rows], key=lambda row: row[0])
        self.names, self.of_speaker, self.source_of = ([row[k] for row in rows] for k in range(3))

    def _read(self, path: Path) -> Iterator[str]:
        """Read a directory into the columns; yield the speaker of each utterance."""
        channels = Lookup(path / "channel") if (path / "channel").exists() else None
        places: dict[str, int] = {}
        for rec, wav in read_recordings(path):
            places[rec] = len(self._wavs)
            self._wavs.append(wav)
            self._channels.append(parse_channel(path, rec, channels.get(rec) if channels else None) or 0)
        known = duration_reader(path)

        def seconds(rec: str) -> float:
            found = known(rec)
            return duration(self._wavs[places[rec]]) if found is None else found

        for u in read_utterances(path, places, seconds):
            self._utts.append(u.utt)
            self._texts.append(u.text)
            self._starts.append(u.start)
            self._ends.append(u.end)
            self._wav_of.append(places[u.rec])
            yield u.spk

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_recordings(self) -> int:
        """Return how many recordings the utterances are in."""
        return len(self._wavs)

    def seconds(self, speaker: int) -> list[float]:
        """Return the lengths of a speaker's utterances."""
        part = self.of_speaker[speaker]
        return [self._ends[row] - self._starts[row] for row in self._rows[part.start:part.stop]]

    def length(self, index: int) -> float:
        """Return the seconds of an utterance."""
        row = self._rows[index]
        return self._ends[row] - self._starts[row]

    def source(self, speaker: int, index: int, onset: float, rir: Optional[str]) -> Source:
        """Return an utterance of a speaker as a source of a mixture, at its own level."""
        row = self._rows[index]
        wav = self._wav_of[row]
        return Source(self._utts[row], self.names[speaker], self._texts[row], self._wavs[wav], self._starts[row],
                      self._ends[row], onset, 1.0, rir, self._channels[wav] or None)


def read_sources(data_dir: Pathlike, names: Sequence[str], alone: bool = False) -> Sources:
    """Read the directories of sources; of several, the names of recordings and speakers begin with the directory's.

    No more of them is kept than drawing needs.

    Args:
        alone: only the utterances that no other one of their recording overlaps.

    Raises:
        UserError: one of them is not there; the message says what makes it.
    """
    check_sources(data_dir, names)
    sources = Sources(Path(data_dir) / names[0] if len(names) == 1 else Path(data_dir))
    for number, name in enumerate(names):
        prefix = f"{Path(name).name}_" if len(names) > 1 else ""
        sources.add(Path(data_dir) / name, number, prefix, alone)
    return sources


def check_sources(data_dir: Pathlike, names: Sequence[str]) -> None:
    """Check that the directories of sources are there.

    Raises:
        UserError: one of them is not; the message says what makes it.
    """
    for name in names:
        if not (Path(data_dir) / name / "wav.scp").exists():
            corpus = next((v for prefix, v in _VARIABLES.items() if name.startswith(prefix)), None)
            where = f" with {corpus} set in db.sh" if corpus else ", where db.sh says where the corpus is"
            others = ", or take it out of 'source' in the configuration of the simulation" if len(names) > 1 else ""
            raise at(Path(data_dir) / name, None, "no such data directory", f"stage 1 makes it{where}{others}")


def spoken_alone(recs: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Say of each utterance whether no other one of its recording overlaps it; all (N,), seconds."""
    alone = np.zeros(len(recs), bool)
    rec, last, until = -1, -1, -math.inf  # the utterance before, the latest end of those before
    for i in np.lexsort((ends, starts, recs)):
        if recs[i] != rec:
            rec, until = recs[i], -math.inf
        elif ends[last] > starts[i]:
            alone[last] = False
        alone[i] = until <= starts[i]
        last, until = i, max(until, ends[i])
    return alone
