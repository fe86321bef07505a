"""Small lists: Kaldi's tools (invert utt2spk, filter and split scp files), audio of a folder."""

import os
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Iterable, Iterator, Mapping, Optional, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.datadir.operations import divide


def read_lines(path: Pathlike) -> Iterator[str]:
    """Yield the lines of a file, or of the standard input for ``-``.

    Raises:
        UserError: no such file, or not UTF-8 (with the line).
    """
    if str(path) != "-":
        from espnet_mt_llm.datadir.maps import read_text

        text = read_text(path)
        if text:
            yield from text.removesuffix("\n").split("\n")
        return
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            yield raw.decode("utf-8").rstrip("\n")
        except UnicodeDecodeError:
            raise UserError(f"standard input:{number}: not UTF-8") from None


def utt2spk_to_spk2utt(lines: Iterable[str]) -> Iterator[str]:
    """Turn `<utt> <spk>` lines into `<spk> <utt> <utt>…`, both in the order of their first appearance.

    Raises:
        UserError: a line that has not two columns.
    """
    utts: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) != 2:
            raise UserError(f"utt2spk:{number}: expected '<utterance> <speaker>', found {line.strip()!r}")
        utts.setdefault(fields[1], []).append(fields[0])
    return (" ".join([spk, *of_spk]) for spk, of_spk in utts.items())


def spk2utt_to_utt2spk(lines: Iterable[str]) -> Iterator[str]:
    """Turn `<spk> <utt> <utt>…` lines into `<utt> <spk>` lines, in the same order."""
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) < 2:
            raise UserError(f"spk2utt:{number}: expected '<speaker> <utterance>…', found {line.strip()!r}")
        for utt in fields[1:]:
            yield f"{utt} {fields[0]}"


def filter_scp(lines: Iterable[str], ids: Iterable[str], *, exclude: bool = False, field: int = 1) -> Iterator[str]:
    """Keep (or drop) the lines whose column ``field`` (from 1) is the first word of a line in ``ids``."""
    wanted = {line.split()[0] for line in ids if line.strip()}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) < field:
            raise UserError(f"scp:{number}: no column {field} in {line.strip()!r}")
        if (fields[field - 1] in wanted) != exclude:
            yield line.rstrip("\n")


def split_scp(lines: Sequence[str], parts: int, utt2spk: Optional[Iterable[str]] = None) -> list[list[str]]:
    """Split lines into consecutive parts of similar size; with ``utt2spk`` no speaker is in two parts.

    Raises:
        UserError: fewer lines (or speakers) than parts, or an utterance without a speaker.
    """
    lines = [line.rstrip("\n") for line in lines]
    if utt2spk is None:
        if not 1 <= parts <= len(lines):
            raise UserError(f"cannot split {len(lines)} lines into {parts} parts; ask for 1 to {len(lines)}")
        return [lines[i * len(lines) // parts : (i + 1) * len(lines) // parts] for i in range(parts)]
    speaker = dict(line.split()[:2] for line in utt2spk)
    pairs = []
    for line in lines:
        utt = line.split()[0]
        if utt not in speaker:
            raise UserError(f"'{utt}' has no speaker in utt2spk")
        pairs.append((speaker[utt], line))
    return divide(sorted(pairs, key=lambda pair: pair[0]), parts, "utt2spk")


def list_audio(root: Pathlike, pattern: str = "*") -> dict[str, str]:
    """Return id -> path of every .wav and .flac file below a folder; links to folders are followed.

    The id is the path below ``root`` without its suffix, ``_`` for what ids may not hold.

    Args:
        pattern: what a file's name, or its path below ``root`` where the pattern has a ``/``, must be like: ``noise*``.

    Raises:
        UserError: no such folder, no audio of this pattern in it, or two files with one id.
    """
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if not name.lower().endswith((".wav", ".flac")) or name.startswith("."):
                continue
            path = Path(folder, name)
            if not fnmatchcase(str(path.relative_to(root)) if "/" in pattern else name, pattern):
                continue
            key = re.sub(r"[^A-Za-z0-9.-]+", "_", str(path.relative_to(root).with_suffix("")))
            if key in found:
                raise at(path, None, f"would get the id '{key}' of {found[key]}", "rename one of the two")
            found[key] = str(path)
    if not found:
        like = "" if pattern == "*" else f" like '{pattern}'"
        problem = f"no .wav or .flac file{like} in it" if Path(root).is_dir() else "no such folder"
        raise at(root, None, problem, "give a folder of recordings")
    return found


def check_apart(found: Mapping[str, str], root: Pathlike, other: Pathlike) -> None:
    """Compare a list of recordings with the map ``other``, of another kind of recordings.

    Raises:
        UserError: a file is in both, so that an impulse response would be taken for noise, say.
    """
    from espnet_mt_llm.datadir.maps import read_map

    both = sorted(set(map(os.path.realpath, found.values())) & set(map(os.path.realpath, read_map(other).values())))
    if both:
        raise at(root, None, f"{len(both)} of its {len(found)} files are in {other} already, the first is {both[0]}",
                 "noise and impulse responses lie in folders of their own, or differ by name: in db.sh, "
                 "NOISE='/data/noise_rir/noise*.wav' RIRS='/data/noise_rir/rir*.wav'")

