"""Write the data directory of a simulated set: its manifest and the maps that follow from it, as a stream."""

import shutil
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Callable, Iterable, Iterator, Optional

from espnet_mt_llm.common import Pathlike, at, atomic_open
from espnet_mt_llm.datadir.kaldi import make_utt_id
from espnet_mt_llm.datadir.maps import format_seconds
from espnet_mt_llm.simulation.config import SimulationConfig
from espnet_mt_llm.simulation.manifest import MANIFEST, Mixture, render_command
from espnet_mt_llm.simulation.sorted_lines import SortedLines


def write_set(mixtures: Iterable[Mixture], config: SimulationConfig, out: Pathlike) -> int:
    """Write the data directory of a set; return the number of mixtures.

    Nothing is kept of a mixture but lines, and those on the disk where they are many. The audio of an earlier,
    different manifest is removed first, so that a later step cannot keep a stale file.

    Raises:
        UserError: a mixture twice, two utterances of a speaker that begin and end together, a text with a line break.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with SortedLines(out) as manifest, SortedLines(out) as recordings, SortedLines(out) as utterances, \
            SortedLines(out) as speakers:
        number = most = 0
        for mixture in mixtures:
            number, most = number + 1, max(most, len(mixture.speakers))
            manifest.add(mixture.to_json())
            recordings.add(_fields(mixture.id, format_seconds(mixture.num_samples / mixture.rate),
                                   len(mixture.speakers), int(mixture.noise is not None)))
            for utt, spk, segment, text in _utterances(mixture):
                utterances.add(_fields(utt, segment, spk, text))
                speakers.add(_fields(spk, utt))
        _write_manifest(manifest, out)
        _write_recordings(recordings, most, config, out)
        _write_utterances(utterances, out)
        _write_lines(out / "spk2utt", (f"{spk} {' '.join(line.split(_TAB)[1] for line in of_spk)}"
                                       for spk, of_spk in groupby(speakers, lambda line: line.split(_TAB)[0])))
    return number


_TAB = "\t"  # sorts before every character of an id, so that lines sort as their ids


def _fields(*values: object) -> str:
    return _TAB.join(map(str, values))


def _utterances(mixture: Mixture) -> Iterator[tuple[str, str, str, str]]:
    """Yield id, speaker, line of `segments` and text of each source, from its offset to the end of its dry stretch."""
    for s in mixture.sources:
        start, end = s.offset, min(round(s.offset + s.end - s.start, 6), mixture.num_samples / mixture.rate)
        if "\n" in s.text or "\r" in s.text:
            raise at(MANIFEST, None, f"the text of '{s.utt}' has a line break: {s.text!r}", "replace it by a space")
        yield (make_utt_id(s.spk, mixture.id, start, end), s.spk,
               f"{mixture.id} {format_seconds(start)} {format_seconds(end)}", s.text)


def _write_manifest(lines: Iterable[str], out: Path) -> None:
    if not _holds(out / MANIFEST, lines):
        shutil.rmtree(out / "audio", ignore_errors=True)
    _write_lines(out / MANIFEST, lines)


def _holds(path: Path, lines: Iterable[str]) -> bool:
    """Say whether a file has exactly these lines."""
    if not path.exists():
        return False
    with open(path, encoding="utf-8", newline="\n") as f:
        return all(there == line + "\n" for there, line in zip_longest(f, lines, fillvalue=""))


def _write_recordings(lines: Iterable[str], most: int, config: SimulationConfig, out: Path) -> None:
    """Write the maps of recordings; a line is id, seconds, number of speakers, with noise or not."""

    def write(name: str, value: Callable[[str, str, int, bool], Optional[str]]) -> None:
        rows = (line.split(_TAB) for line in lines)
        values = ((rec, value(rec, seconds, int(talkers), noisy == "1")) for rec, seconds, talkers, noisy in rows)
        _write_lines(out / name, (f"{rec} {v}" for rec, v in _no_twin(values, out / name) if v is not None))

    for stale in out.glob("*.scp"):
        stale.unlink()
    write("wav.scp", lambda rec, *_: wav_entry(rec, config, out))
    write("reco2dur", lambda rec, seconds, *_: seconds)
    write("utt2num_spk", lambda rec, _, talkers, noisy: str(talkers))
    if config.write and config.write_sources:
        for k in range(1, most + 1):
            write(f"spk{k}.scp",
                  lambda rec, _, talkers, noisy: str(audio_path(out, f"spk{k}", rec)) if talkers >= k else None)
        write("noise1.scp", lambda rec, _, talkers, noisy: str(audio_path(out, "noise1", rec)) if noisy else None)
        if not (out / "noise1.scp").stat().st_size:
            (out / "noise1.scp").unlink()


def _write_utterances(lines: Iterable[str], out: Path) -> None:
    """Write the maps of utterances; a line is id, line of `segments`, speaker, text."""
    for name, column in (("segments", 1), ("utt2spk", 2), ("text", 3)):
        rows = ((fields[0], fields[column]) for fields in (line.split(_TAB, 3) for line in lines))
        _write_lines(out / name, (f"{utt} {v}" if v else utt for utt, v in _no_twin(rows, out / name)))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_open(path) as f:
        f.writelines(line + "\n" for line in lines)


def _no_twin(rows: Iterable[tuple[str, Optional[str]]], path: Path) -> Iterator[tuple[str, Optional[str]]]:
    before = None
    for row in rows:
        if row[0] == before:
            raise at(path, None, f"the id '{before}' occurs twice",
                     "two utterances of one speaker start and end together, or two mixtures have the same id")
        before = row[0]
        yield row


def wav_entry(mixture_id: str, config: SimulationConfig, out: Path) -> str:
    """Return the audio of a mixture as `wav.scp` says it: a file, or a pipe that renders it."""
    if config.write:
        return str(audio_path(out, "mix", mixture_id))
    return render_command(out / MANIFEST, mixture_id)


def audio_path(out: Path, part: str, mixture_id: str) -> Path:
    """Return where a part (``mix``, ``spk1`` …, ``noise1``) of a mixture is written."""
    return out / "audio" / part / f"{mixture_id}.flac"
