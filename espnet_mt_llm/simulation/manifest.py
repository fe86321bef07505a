"""The manifest of simulated mixtures: one JSON line says everything that is needed to make a mixture again."""

import json
import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator, Mapping, Optional

from espnet_mt_llm.common import Pathlike, at, from_mapping

MANIFEST = "mixtures.jsonl"
_LEADING_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*"([A-Za-z0-9_.-]+)"')


@dataclass(frozen=True)
class Source:
    """One talker of a mixture: a stretch of a recording, where it goes and how loud.

    Attributes:
        utt, spk, text: the utterance, its speaker and its transcript.
        wav: path (or pipe) of the recording; ``start`` and ``end`` are the stretch in it, seconds.
        offset: where the stretch begins in the mixture, seconds.
        gain: linear factor, before the mixture's own scale.
        rir: path of a room impulse response, or None.
        channel: of the recording, from 1; None for a mono one.
    """

    utt: str
    spk: str
    text: str
    wav: str
    start: float
    end: float
    offset: float
    gain: float
    rir: Optional[str] = None
    channel: Optional[int] = None

    def num_samples(self, rate: int) -> int:
        """Return the length of the dry stretch at ``rate`` Hz."""
        return round(self.end * rate) - round(self.start * rate)


@dataclass(frozen=True)
class Noise:
    """A stretch of a noise recording under the whole mixture; it starts again where the recording ends.

    Attributes:
        start: seconds in the noise recording.
        gain: linear factor, before the mixture's own scale.
        snr: decibels, power of the sum of all talkers over power of the noise, both over the whole mixture; None where
            a gain was given and not an SNR.
        speed: the recording is played so many times as fast first (LibriMix' training noise); None leaves it.
    """

    wav: str
    start: float
    gain: float
    snr: Optional[float] = None
    speed: Optional[float] = None


@dataclass(frozen=True)
class Mixture:
    """A mixture = scale * (sum of gain * source + gain * noise); sources are in the order of their onsets.

    In a conversation a speaker has several sources.

    Attributes:
        num_samples: length at ``rate`` Hz.
        seed: from which this mixture was drawn.
        scale: <= 1, what was needed so that nothing clips.
        overlap: share of the time with speech in which two or more talk.
        ties: how many neighbouring onsets are closer than the configured tie.
        librimix: of a mixture that follows LibriMix' own arithmetic (:mod:`espnet_mt_llm.simulation.librimix`): samples
            at 16 kHz of the longest source with its offset; None for every other mixture.
    """

    id: str
    rate: int
    num_samples: int
    sources: tuple[Source, ...]
    noise: Optional[Noise] = None
    seed: int = 0
    scale: float = 1.0
    overlap: float = 0.0
    ties: int = 0
    librimix: Optional[int] = None

    @property
    def speakers(self) -> list[str]:
        """Return the speakers in the order of their first onsets."""
        return list(dict.fromkeys(s.spk for s in self.sources))

    def to_json(self) -> str:
        """Return the line of the manifest (without the line break); keys that are None are left out."""
        fields = _without_none(vars(self))
        fields["sources"] = [_without_none(vars(source)) for source in self.sources]
        if self.noise is not None:
            fields["noise"] = _without_none(vars(self.noise))
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: "str | bytes", where: Pathlike = "manifest") -> "Mixture":
        """Parse a line of the manifest.

        Raises:
            UserError: not JSON, an unknown key or a missing one.
        """
        try:
            values = json.loads(line)
        except ValueError as e:
            raise at(where, None, f"not a JSON line ({e})", "make the manifest again (stage 2)") from None
        if not isinstance(values, Mapping) or not isinstance(values.get("sources"), list):
            raise at(where, None, "not a mixture with 'sources'", "make the manifest again (stage 2)")
        sources = tuple(from_mapping(Source, s, where) for s in values["sources"])
        noise = from_mapping(Noise, values["noise"], where) if values.get("noise") else None
        return replace(from_mapping(cls, values, where), sources=sources, noise=noise)


class Manifest(Mapping[str, Mixture]):
    """Random access to a manifest by mixture id; lines are parsed when they are asked for.

    The index holds 8 bytes and the id of each mixture, and the file stays on disk: a manifest of a million mixtures can
    be opened. Forked workers share the index; a pickled one is read again by who unpickles it.
    """

    def __init__(self, path: Pathlike):
        self.path = Path(path)
        self._index: Optional[dict[str, int]] = None
        self._file: Optional[int] = None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_index": None, "_file": None}

    def __getitem__(self, mixture_id: str) -> Mixture:
        start = self._open()[mixture_id]
        line = b""
        while not line.endswith(b"\n"):  # pread keeps no position, so forked workers may share the open file
            block = os.pread(self._file, 4096, start + len(line))
            if not block:
                break
            line += block[:block.find(b"\n") + 1 or len(block)]
        return Mixture.from_json(line, self.path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._open())

    def __len__(self) -> int:
        return len(self._open())

    def _open(self) -> dict[str, int]:
        if self._index is None:
            try:
                self._file = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                raise at(self.path, None, "no such manifest", "draw the mixtures first (stage 2)") from None
            self._index = index_lines(self.path)
        return self._index

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)


def render_command(manifest: Pathlike, mixture_id: str) -> str:
    """Return the entry of `wav.scp` that renders a mixture when it is read: a command that ends in a pipe sign."""
    return f"python -m espnet_mt_llm.bin.render_mixture --manifest {shlex.quote(str(manifest))} --id {mixture_id} |"


def index_lines(path: Pathlike) -> dict[str, int]:
    """Return mixture id -> the byte at which its line starts.

    Raises:
        UserError: with the line: no id, or an id that occurs twice.
    """
    index: dict[str, int] = {}
    position = 0
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            match = _LEADING_ID.match(line)
            if match is None:
                raise at(path, number, "the line does not begin with an 'id'", "make the manifest again (stage 2)")
            key = match.group(1).decode()
            if key in index:
                raise at(path, number, f"the id '{key}' occurs twice", "make the manifest again (stage 2)")
            index[key] = position
            position += len(line)
    return index


def _without_none(fields: Mapping[str, object]) -> dict:
    return {key: value for key, value in fields.items() if value is not None}
