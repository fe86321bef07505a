"""The utterances that mixtures are drawn from, in a few flat columns: a million of them are some hundred megabytes."""

import math
from array import array
from collections import defaultdict
from pathlib import Path
from typing import Iterable, Optional, Sequence

from espnet_mt_llm.common import Pathlike, at
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance
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

    Attributes:
        path: the directory, or the one around several, for messages.
        names: the speakers, sorted.
        of_speaker: the utterances of each.
        source_of: which directory each is from, counted from 0.
    """

    def __init__(self, path: Pathlike) -> None:
        self.path = Path(path)
        self.names: list[str] = []
        self.of_speaker: list[range] = []
        self.source_of: list[int] = []
        self._utts, self._texts, self._wavs = Strings(), Strings(), Strings()
        self._starts, self._ends = array("d"), array("d")
        self._wav_of, self._channels = array("I"), array("H")

    @classmethod
    def of(cls, data: DataDir) -> "Sources":
        """Return the sources of one directory."""
        sources = cls(data.path)
        sources.add(data, 0)
        return sources

    def add(self, data: DataDir, number: int, prefix: str = "", alone: bool = False) -> None:
        """Take over a directory, the ``number``-th; its speakers get the prefix.

        Args:
            alone: only the utterances that no other one of their recording overlaps.

        Raises:
            UserError: with the prefix, a speaker has the name of one of another directory.
        """
        by_speaker: dict[str, list[Utterance]] = defaultdict(list)
        for utterance in spoken_alone(data.utterances) if alone else data.utterances:
            by_speaker[prefix + utterance.spk].append(utterance)
        if twice := sorted(by_speaker.keys() & set(self.names)):
            raise at(data.path, None, f"the speaker '{twice[0]}' is in another source, too", "rename the directory")
        places: dict[str, int] = {}
        rows = []
        for spk, utterances in by_speaker.items():
            first = len(self._utts)
            for u in utterances:
                if u.rec not in places:
                    places[u.rec] = len(self._wavs)
                    self._wavs.append(data.wav[u.rec])
                    self._channels.append(data.channel(u.rec) or 0)
                self._utts.append(u.utt)
                self._texts.append(u.text)
                self._starts.append(u.start)
                self._ends.append(u.end)
                self._wav_of.append(places[u.rec])
            rows.append((spk, range(first, len(self._utts)), number))
        rows = sorted([*zip(self.names, self.of_speaker, self.source_of), *rows], key=lambda row: row[0])
        self.names, self.of_speaker, self.source_of = ([row[k] for row in rows] for k in range(3))

    def __len__(self) -> int:
        return len(self._utts)

    def seconds(self, speaker: int) -> list[float]:
        """Return the lengths of a speaker's utterances."""
        part = self.of_speaker[speaker]
        return [end - start for start, end in zip(self._starts[part.start:part.stop], self._ends[part.start:part.stop])]

    def length(self, index: int) -> float:
        """Return the seconds of an utterance."""
        return self._ends[index] - self._starts[index]

    def source(self, speaker: int, index: int, onset: float, rir: Optional[str]) -> Source:
        """Return an utterance of a speaker as a source of a mixture, at its own level."""
        wav = self._wav_of[index]
        return Source(self._utts[index], self.names[speaker], self._texts[index], self._wavs[wav], self._starts[index],
                      self._ends[index], onset, 1.0, rir, self._channels[wav] or None)


def read_sources(data_dir: Pathlike, names: Sequence[str], alone: bool = False) -> Sources:
    """Read the directories of sources; of several, the names of recordings and speakers begin with the directory's.

    One directory is read at a time, and no more of it is kept than drawing needs.

    Args:
        alone: only the utterances that no other one of their recording overlaps.

    Raises:
        UserError: one of them is not there; the message says what makes it.
    """
    for name in names:
        if not (Path(data_dir) / name).is_dir():
            corpus = next((v for prefix, v in _VARIABLES.items() if name.startswith(prefix)), None)
            where = f" with {corpus} set in db.sh" if corpus else ", where db.sh says where the corpus is"
            raise at(Path(data_dir) / name, None, "no such data directory", f"stage 1 makes it{where}"
                     + (", or take it out of 'source' in conf/simulate.yaml" if len(names) > 1 else ""))
    sources = Sources(Path(data_dir) / names[0] if len(names) == 1 else Path(data_dir))
    for number, name in enumerate(names):
        prefix = f"{Path(name).name}_" if len(names) > 1 else ""
        sources.add(DataDir.read(Path(data_dir) / name), number, prefix, alone)
    return sources


def spoken_alone(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Return the utterances that no other utterance of their recording overlaps, in their order."""
    by_rec: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_rec[utterance.rec].append(utterance)
    alone = []
    for of_rec in by_rec.values():
        ordered = sorted(of_rec, key=lambda u: (u.start, u.end))
        until = -math.inf  # the latest end of those before
        for utterance, after in zip(ordered, [*(u.start for u in ordered[1:]), math.inf]):
            if until <= utterance.start and utterance.end <= after:
                alone.append(utterance)
            until = max(until, utterance.end)
    return sorted(alone, key=lambda u: u.utt)
