"""AISHELL-2: read Mandarin, a source of simulated conversations.

Fact sheet. 1,000 hours of read speech by 1,991 speakers (iOS phones), 16 kHz mono WAV, 16 bits, one speaker in each
file, no overlap; dev 2,500 utterances of 5 speakers, test 5,000 of 10, each recorded by iOS, Android and a microphone
at once. Free for academic use after an application to AISHELL (https://www.aishelltech.com/aishell_2); dev and test are
open. Du et al., arXiv 1808.10583.

Layout. ``iOS/data/{wav.scp,trans.txt,wav/C0001/IC0001W0001.wav}`` and, from the archive of dev and test,
``AISHELL-DEV-TEST-SET/iOS/{dev,test}/{wav.scp,trans.txt,wav/…}``. Both lists are tab separated; paths are relative to
their folder, whose last part is the speaker. Only the iOS side of dev and test is read: it is the one like train.

Known errors. Latin words come in both cases, so transcripts are normalised (``zh_char``: upper case, half width).
"""

import os
import sys
from collections import defaultdict
from pathlib import Path

from espnet_mt_llm.common import Pathlike, at
from espnet_mt_llm.corpora import sources
from espnet_mt_llm.corpora.meetings import SetSummary, absent, log_unknown, table, words_of
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.corpora.sources import Recording
from espnet_mt_llm.datadir.maps import read_map

URL = "https://www.aishelltech.com/aishell_2"
DEBUG_SPEAKERS = 2
_FOLDERS = {
    "train": ("iOS/data",),
    "dev": ("AISHELL-DEV-TEST-SET/iOS/dev", "iOS/dev"),
    "test": ("AISHELL-DEV-TEST-SET/iOS/test", "iOS/test"),
}


def prepare(root: Pathlike, out: Pathlike, *, profile: str = "zh_char", nj: int = 1, trim: bool = True,
            debug: bool = False, allow_problems: bool = False) -> list[SetSummary]:
    """Make ``out/aishell2_{train,dev,test}`` of the sets that are there, and print a table.

    Args:
        root: the folder that holds ``iOS/data``, ``AISHELL-2/iOS/data`` or ``AISHELL-DEV-TEST-SET``.
        profile: normalisation of the transcripts.
        trim: an utterance goes from the onset to the end of its speech, and not over the whole file.
        debug: only the first speakers of each set.

    Raises:
        UserError: no AISHELL-2 at ``root``, or speakers with problems (``problems.tsv``) that are not allowed.
    """
    problems = Problems(out)
    summaries = []
    for name, folder in find_sets(root).items():
        name = f"aishell2_{name}"
        speakers = _speakers(folder, name, profile, problems)
        chosen = {spk: speakers[spk] for spk in sorted(speakers)[:DEBUG_SPEAKERS if debug else None]}
        summaries.append(sources.prepare_set(name, chosen, Path(out), problems, nj, trim))
    print(table(summaries), flush=True)
    problems.finish(allow_problems)
    return summaries


def find_sets(root: Pathlike) -> dict[str, Path]:
    """Return set -> its folder with ``wav.scp`` and ``trans.txt``.

    Raises:
        UserError: none is there; says what is there and what should be.
    """
    root = Path(root)
    found = {}
    for name, folders in _FOLDERS.items():
        places = [base / folder for base in (root, root / "AISHELL-2") for folder in folders]
        place = next((p for p in places if (p / "wav.scp").is_file() and (p / "trans.txt").is_file()), None)
        if place is not None:
            found[name] = place
    if not found:
        raise absent(root, "AISHELL-2", "AISHELL2",
                     "iOS/data/{wav.scp,trans.txt,wav/}, AISHELL-DEV-TEST-SET/iOS/{dev,test}/…; one of them at least",
                     f"apply for it at {URL}")
    return found


def _speakers(folder: Path, name: str, profile: str, problems: Problems) -> dict[str, list[Recording]]:
    """Return speaker -> recordings, from the two lists of a set."""
    texts = read_map(folder / "trans.txt")
    speakers: dict[str, list[Recording]] = defaultdict(list)
    missing: dict[str, list[str]] = defaultdict(list)
    unknown: dict[str, int] = {}
    for utt, path in read_map(folder / "wav.scp").items():
        speaker = sys.intern(os.path.basename(os.path.dirname(path)))
        words = words_of(texts.pop(utt, ""), profile, unknown)
        if words:
            speakers[speaker].append(Recording(utt, speaker, os.path.join(folder, path), words))
        else:
            missing[speaker].append(utt)
    log_unknown(folder / "trans.txt", unknown)
    for speaker, utts in missing.items():
        with problems.of(name, speaker):
            raise _incomplete(folder / "trans.txt", utts, "no words for")
    with problems.of(name, "trans.txt"):
        if texts:
            raise _incomplete(folder / "wav.scp", list(texts), "no audio for")
    return speakers


def _incomplete(path: Path, utts: list[str], what: str) -> Exception:
    return at(path, None, f"{what} {len(utts)} utterances, the first is '{utts[0]}'", "unpack the archive again")
