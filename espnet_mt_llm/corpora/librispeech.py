"""LibriSpeech: read English, the source of LibriMix and of simulated conversations.

Fact sheet. 982 hours of audio books from LibriVox, 2,484 readers, 16 kHz mono FLAC, 16 bits; one speaker in each file,
no overlap. OpenSLR 12, CC BY 4.0; Panayotov et al., ICASSP 2015. Hours, readers, utterances of the parts:
train-clean-100 100.6, 251, 28,539; train-clean-360 363.6, 921, 104,014; train-other-500 496.7, 1,166, 148,688;
dev-clean 5.4, 40, 2,703; dev-other 5.3, 33, 2,864; test-clean 5.4, 40, 2,620; test-other 5.1, 33, 2,939.

Layout. ``LibriSpeech/<part>/<reader>/<chapter>/<reader>-<chapter>-<number>.flac`` with one
``<reader>-<chapter>.trans.txt`` a chapter (``<utterance> <TEXT IN UPPER CASE>``), and ``SPEAKERS.TXT``.

Known errors. Books were cut at silences by an aligner: the silence that is left at both ends differs a lot, so a file's
begin says nothing about the onset of speech; the utterances here go from onset to end.
"""

import functools
import logging
import os
from pathlib import Path
from typing import Collection, Optional, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at, listed, nearest
from espnet_mt_llm.corpora import sources
from espnet_mt_llm.corpora.meetings import SetSummary, absent, table
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.corpora.sources import Recording

log = logging.getLogger(__name__)

URL = "https://www.openslr.org/12"
PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
DEBUG_CHAPTERS = 3


def prepare(root: Pathlike, out: Pathlike, *, parts: Optional[Sequence[str]] = None, nj: int = 1, trim: bool = True,
            debug: bool = False, allow_problems: bool = False) -> list[SetSummary]:
    """Make ``out/librispeech_<part>`` (``train-clean-100`` -> ``train_clean_100``) for the parts, and print a table.

    Recording and utterance have the official utterance id, the speaker is the reader's id.

    Args:
        root: the folder ``LibriSpeech`` or its parent.
        parts: official names; None for all that are there.
        trim: an utterance goes from the onset to the end of its speech, and not over the whole file.
        debug: only the first chapters of each part.

    Raises:
        UserError: no LibriSpeech at ``root``, a part that is not there, or chapters with problems (``problems.tsv``)
            that are not allowed.
    """
    problems = Problems(out)
    summaries = prepare_parts(root, out, problems, parts=parts, nj=nj, trim=trim, debug=debug)
    print(table(summaries), flush=True)
    problems.finish(allow_problems)
    return summaries


def prepare_parts(root: Pathlike, out: Pathlike, problems: Problems, *, parts: Optional[Sequence[str]] = None,
                  nj: int = 1, trim: bool = True, debug: bool = False, needed: Collection[str] = ()
                  ) -> list[SetSummary]:
    """Do what :func:`prepare` does, as a part of another preparation, which prints the table and ends the problems.

    Args:
        needed: chapters, ``<reader>/<chapter>``, that are taken besides the first ones with ``debug``.
    """
    summaries = []
    for part in _chosen(root, parts):
        name = set_name(part)
        chapters: dict[str, list[Recording]] = {}
        for number, (chapter, folder) in enumerate(_chapters(root, part).items()):
            if debug and number >= DEBUG_CHAPTERS and chapter not in needed:
                continue
            with problems.of(name, chapter):
                chapters[chapter] = _recordings(folder)
        summaries.append(sources.prepare_set(name, chapters, Path(out), problems, nj, trim))
    return summaries


def set_name(part: str) -> str:
    """Name the data directory of a part.

    >>> set_name("train-clean-100")
    'librispeech_train_clean_100'
    """
    return f"librispeech_{part.replace('-', '_')}"


@functools.lru_cache(maxsize=8)
def home(root: Pathlike) -> Path:
    """Return the folder that holds the parts: ``root`` or ``root/LibriSpeech``.

    Raises:
        UserError: neither does; says what is there and what should be.
    """
    root = Path(root)
    for folder in (root, root / "LibriSpeech"):
        if any((folder / part).is_dir() for part in PARTS):
            return folder
    raise absent(root, "LibriSpeech", "LIBRISPEECH", "LibriSpeech/<part>/<reader>/<chapter>/*.flac, with a part of "
                 + ", ".join(PARTS), f"train-clean-100.tar.gz … from {URL}, unpacked")


def parts(root: Pathlike) -> list[str]:
    """Return the official parts that are there, in the order of :data:`PARTS`."""
    folder = home(root)
    return [part for part in PARTS if (folder / part).is_dir()]


def transcript(folder: Pathlike) -> dict[str, str]:
    """Return utterance -> text of a chapter, whose folder is ``<reader>/<chapter>``.

    Raises:
        UserError: with file and line: no ``*.trans.txt``, not UTF-8, or a line that is no utterance or is there twice.
    """
    folder = Path(folder)
    path = folder / f"{folder.parent.name}-{folder.name}.trans.txt"
    repair = f"unpack the part's archive again ({URL})"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise at(path, None, "no such file", repair) from None
    except UnicodeDecodeError as e:
        raise at(path, e.object.count(b"\n", 0, e.start) + 1, "not UTF-8", repair) from None
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        utt, _, text = line.partition(" ")
        if not text.strip() or utt in texts:
            raise at(path, number, f"expected '<utterance> <TEXT>', each once, found {line!r}", repair)
        texts[utt] = text.strip()
    return texts


def _chosen(root: Pathlike, wanted: Optional[Sequence[str]]) -> list[str]:
    there = parts(root)
    for part in wanted or ():
        if part not in PARTS:
            raise UserError(f"LibriSpeech has no part '{part}'; {nearest(part, PARTS)}")
        if part not in there:
            raise at(home(root) / part, None, "no such folder", f"get {part}.tar.gz from {URL} and unpack it")
    return list(wanted or there)


def _chapters(root: Pathlike, part: str) -> dict[str, str]:
    """Return ``<reader>/<chapter>`` -> its folder, in order."""
    folder = home(root) / part
    found = {}
    for reader in _folders(folder):
        for chapter in _folders(reader.path):
            found[f"{reader.name}/{chapter.name}"] = chapter.path
    if not found:
        raise at(folder, None, "no such part, or no <reader>/<chapter> folders in it",
                 f"get {part}.tar.gz from {URL} and unpack it; {nearest(part, PARTS)}")
    return found


def _folders(path: Pathlike) -> list[os.DirEntry]:
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        return sorted((e for e in entries if e.is_dir() and e.name.isdigit()), key=lambda e: e.name)


def _recordings(folder: str) -> list[Recording]:
    """Read one chapter; recordings that its transcript does not have are left out with a warning."""
    texts = transcript(folder)
    there = {name.removesuffix(".flac") for name in os.listdir(folder) if name.endswith(".flac")}
    unknown = sorted(there - texts.keys())
    if unknown:
        log.warning("%s: recordings without a transcript are left out (%d): %s", folder, len(unknown), listed(unknown))
    return [Recording(utt, utt.partition("-")[0], os.path.join(folder, utt + ".flac"), text)
            for utt, text in texts.items()]
