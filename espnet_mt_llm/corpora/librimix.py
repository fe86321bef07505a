"""LibriMix: mixtures of two and three LibriSpeech readers with WHAM! noise, from the official metadata.

Fact sheet. Cosentino et al. 2020, https://github.com/JorisCos/LibriMix (MIT). Nothing is recorded: CSV files say which
LibriSpeech utterances and which noise make a mixture, and how loud each is. Mixtures (hours in mode max) of
train-clean-100, train-clean-360, dev-clean, test-clean: Libri2Mix 13,900 (58), 50,800 (212), 3,000 (11), 3,000 (11);
Libri3Mix 9,300 (40), 33,900 (146), 3,000 (11), 3,000 (11). Ids: ``<utterance 1>_<utterance 2>[_<utterance 3>]``.

Sources. LibriSpeech (OpenSLR 12, CC BY 4.0), WHAM! noise (16 kHz, two channels, of which the first is used; folders tr,
cv, tt; CC BY-NC 4.0; http://wham.whisper.ai). Training uses each noise also 0.8 and 1.2 times as fast: ``…sp08.wav``,
``…sp12.wav``. Files that the official script left in ``tr`` are used as they are; others are made by the program sox
(``<out>/wham_sp``, equal to the official ones) or, with ``--speed_noise soxr``, when a mixture is rendered.

Kinds. Types: clean (sources), both (sources + noise), single (source 1 + noise). Mode max ends with the longest source,
min with the shortest (words and whole talkers are cut off: not for recognition). 16 or 8 kHz. Every sample of mixtures,
sources and noise equals the official generator's 16-bit files; nothing has to be written for that
(``simulation/librimix.py``).

Conditions. ``plain``: all sources begin at 0, as published. ``offset``: later sources begin later. Two talkers: after
1.0-1.5 s, three talkers: after 1.0-1.5 s and 2.5-3.0 s; from the columns ``offset`` or ``offset1, offset2`` of other
CSV files, which LibriMix itself does not have: ESPnet published those of two talkers (``metadta_Libri2Mix_offset``),
github.com/hshi-speech/LibriMix-repo those of three (``metadta_Libri3Mix_offset``; dev, test, train-100). Without them
offsets are drawn for each mixture id, with a warning; but dev and test of three talkers, which results are published
of, are made of drawn ones only when that is asked for. Zeros are put in front of the source, ``int(offset * 16000)`` of
them. Never compare scores of the two conditions, nor of drawn and published offsets.

Times. A talker's segment goes from the onset to the end of its speech, which is measured: LibriSpeech files begin with
silences of 0.1 to 1 s and more, so the order of talkers in ``plain`` is that of the measured onsets. Onsets less than
50 ms apart are a tie and put in order by the reader's id. ``utt2sot_order`` has the readers of each mixture in that
order, with a ``~`` between those that tie: ``<mixture> 1673 ~ 3536``. ``source_dirs`` names the data directories of
LibriSpeech that the readers come from, beside the set's own: ``librispeech_dev_clean``.

Known errors. 16-bit files are not protected from clipping. The CSV order of talkers means nothing.
"""

import itertools
import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

from espnet_mt_llm.common import Chance, Pathlike, UserError, at, nearest
from espnet_mt_llm.corpora import librispeech
from espnet_mt_llm.corpora.librimix_files import (
    OFFSETS_FROM,
    PARTS,
    NoiseFile,
    Row,
    Rows,
    Speech,
    chosen_parts,
    csv_path,
    find_noise,
    find_speech,
    metadata_home,
    offset_csv,
    reaches,
    read_rows,
    wham_home,
)
from espnet_mt_llm.corpora.meetings import SetSummary, left_behind, table
from espnet_mt_llm.corpora.problems import Problems
from espnet_mt_llm.datadir.enrolment import write_source_dirs
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance, make_utt_id
from espnet_mt_llm.simulation.draw import overlap_share
from espnet_mt_llm.simulation.librimix import RATE, TOOLS
from espnet_mt_llm.simulation.manifest import MANIFEST, Mixture, Noise, Source, render_command
from espnet_mt_llm.text.serialisation import Order, turns

log = logging.getLogger(__name__)

TYPES = ("clean", "both", "single")
CONDITIONS = ("plain", "offset")
MODES = ("max", "min")
OFFSETS = ((1.0, 1.5), (2.5, 3.0))  # seconds, of the second and of the third talker
DEBUG_MIXTURES = 6
ORDER = Order()
TIED = "~"


@dataclass(frozen=True)
class Selection:
    """Which sets are prepared: every combination.

    Attributes:
        parts: keys of :data:`PARTS`; None for all. Those that are not there are left out.
        num_talkers: of 2 and 3; with both, sets of both together (``23mix``) are made, too.
        types, conditions: of :data:`TYPES` and :data:`CONDITIONS`.
        rate: Hz, 16000 or 8000.
        mode: ``max`` or ``min``.
        draw_offsets: draw the offsets of dev and test of three talkers, too, where the published ones are not there.
        debug: only the first mixtures of each CSV.
    """

    parts: Optional[Sequence[str]] = None
    num_talkers: Sequence[int] = (2, 3)
    types: Sequence[str] = ("clean", "both")
    conditions: Sequence[str] = CONDITIONS
    rate: int = RATE
    mode: str = "max"
    draw_offsets: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        for name, values, valid in (
            ("part", self.parts or (), PARTS), ("number of talkers", self.num_talkers, (2, 3)),
            ("type", self.types, TYPES), ("condition", self.conditions, CONDITIONS),
            ("rate", [self.rate], (RATE, 8000)), ("mode", [self.mode], MODES),
        ):
            for value in values:
                if value not in valid:
                    raise UserError(f"LibriMix has no {name} {value!r}; {nearest(str(value), map(str, valid))}")

    def groups(self) -> list[tuple[int, ...]]:
        """Return the numbers of talkers of the sets: each by itself, and all together."""
        numbers = tuple(sorted(set(self.num_talkers)))
        return [(n,) for n in numbers] + ([numbers] if len(numbers) > 1 else [])

    def name(self, part: str, talkers: Sequence[int], kind: str, condition: str) -> str:
        """Name a set.

        >>> Selection().name("train_100", (2, 3), "both", "offset")
        'train_100_23mix_both_offset'
        >>> Selection(rate=8000, mode="min").name("dev", (2,), "clean", "plain")
        'dev_2mix_clean_8k_min'
        """
        name = f"{part}_{''.join(map(str, talkers))}mix_{kind}"
        return name + ("_offset" if condition == "offset" else "") + ("_8k" if self.rate == 8000 else "") + (
            "_min" if self.mode == "min" else "")


@dataclass(frozen=True)
class Output:
    """How the sets are written.

    Attributes:
        write: list files, which ``write_mixtures`` makes, instead of commands that render.
        write_sources: with ``write``, also each talker's signal (``spk1.scp`` …) and the noise (``noise1.scp``).
    """

    folder: Path
    write: bool = False
    write_sources: bool = False


@dataclass(frozen=True)
class Inputs:
    """Where everything comes from.

    Attributes:
        librispeech: the folder ``LibriSpeech`` or its parent.
        metadata: the folder that has ``Libri2Mix``.
        wham: ``wham_noise`` or its parent; None where no set needs noise.
        offset_metadata: folders of CSV files with offsets; see :func:`librimix_files.offset_csv`.
        speed_noise: what makes training noise that the official script has not made: ``sox`` or ``soxr``.
    """

    librispeech: Pathlike
    metadata: Path
    wham: Optional[Pathlike] = None
    offset_metadata: Sequence[Pathlike] = ()
    speed_noise: str = "sox"


@dataclass(frozen=True)
class Files:
    """The recordings that rows name, or what is wrong with them."""

    speech: Mapping[str, "Speech | str"]
    noise: Mapping[str, "NoiseFile | str"]


@dataclass
class _Set:
    """The mixtures of a set, as the lines of its files."""

    lines: dict[str, str] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    utterances: list[Utterance] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    maps: dict[str, dict[str, str]] = field(default_factory=lambda: {"utt2num_spk": {}, "utt2sot_order": {}})


def prepare(librispeech_root: Pathlike, metadata: Pathlike, out: Pathlike, *, wham: Optional[Pathlike] = None,
            offset_metadata: Sequence[Pathlike] = (), select: Selection = Selection(), write: bool = False,
            write_sources: bool = False, speed_noise: str = "sox", prepare_librispeech: bool = False, nj: int = 1,
            allow_problems: bool = False) -> list[SetSummary]:
    """Make ``out/{train_100,train_360,dev,test}_{2mix,3mix,23mix}_{clean,both,single}[_offset]`` and print a table.

    Below the table it says which sets were not made, and how to run the recipe with those that were.

    Args:
        librispeech_root: the folder ``LibriSpeech`` or its parent.
        metadata: the official ``metadata`` folder (with ``Libri2Mix/*.csv``) or its parent.
        wham: ``wham_noise`` or its parent; where there is no such folder, the clean sets alone are made.
        offset_metadata, speed_noise: see :class:`Inputs`.
        write, write_sources: see :class:`Output`.
        prepare_librispeech: make ``out/librispeech_<part>`` as well: of the parts that are selected, or of all.

    Raises:
        UserError: a folder is not what it should be, or mixtures have problems (``problems.tsv``) that are not allowed.
    """
    if speed_noise not in TOOLS:
        raise UserError(f"LibriMix' noise is not made by {speed_noise!r}; {nearest(speed_noise, TOOLS)}")
    if write_sources and not write:
        raise UserError("--write_sources true writes beside the mixtures; add --write true")
    for folder in offset_metadata:
        if not Path(folder).is_dir():
            raise at(folder, None, "no such folder", "--offset_metadata names folders of CSV files with offsets")
    home, output, problems = metadata_home(metadata), Output(Path(out), write, write_sources), Problems(out)
    no_noise = _no_noise(select, wham, problems)
    there, missing = chosen_parts(home, librispeech_root, select.parts, select.num_talkers)
    inputs = Inputs(librispeech_root, home, None if no_noise else wham, offset_metadata, speed_noise)
    summaries = []
    if prepare_librispeech:
        chosen = [PARTS[part] for part in there] if select.parts else None
        needed = _debug_chapters(there, inputs, select) if select.debug else set()
        summaries = librispeech.prepare_parts(librispeech_root, out, problems, parts=chosen, nj=nj, debug=select.debug,
                                              needed=needed)
    not_made = {f"{part}_*": lack for part, lack in missing.items()}
    mixed = []
    for part, lacks in there.items():
        mixed += _prepare_part(part, lacks, no_noise, inputs, select, output, problems, not_made, nj)
    print(table(summaries + mixed), flush=True)
    made = {s.name for s in mixed if s.sessions}
    print("".join(line + "\n" for line in _end(not_made, made, select, output.folder)), end="", flush=True)
    problems.finish(allow_problems)
    if not made:
        raise UserError("no set of mixtures was made")
    return summaries + mixed


def _debug_chapters(parts: Mapping[str, Mapping[int, str]], inputs: Inputs, select: Selection) -> set[str]:
    """Return the chapters, ``<reader>/<chapter>``, of the sources of debug's mixtures: readers enrol from them."""
    found = set()
    for part, lacks in parts.items():
        for n in {*select.num_talkers} - {*lacks}:
            for path in {csv_path(inputs.metadata, n, part),
                         offset_csv(inputs.metadata, inputs.offset_metadata, n, part)}:
                with suppress(UserError):  # is reported where the mixtures are made
                    rows = read_rows(path, n, DEBUG_MIXTURES)
                    found |= {"/".join(source.split("/")[1:3]) for row in rows.good for source, _ in row.sources}
    return found


def _no_noise(select: Selection, wham: Optional[Pathlike], problems: Problems) -> str:
    """Say why sets with noise cannot be made, if so; a folder that is there and is not WHAM! is a problem, too."""
    if set(select.types) == {"clean"}:
        return ""
    try:
        wham_home(wham or "wham_noise")
    except UserError as e:
        if "clean" not in select.types:
            raise
        if wham and Path(wham).is_dir():
            problems.add("all", "noise", str(e))
        return f"they need noise: {e}"
    problems.count("all", 0)  # an earlier run may have had this problem
    return ""


def _end(not_made: Mapping[str, str], made: set[str], select: Selection, out: Path) -> list[str]:
    """Return the last lines of the output: sets that were not made and why, and a command that does without them."""
    names: dict[str, list[str]] = {}
    for name, reason in not_made.items():
        names.setdefault(reason, []).append(name)
    lines = [f"not made: {' '.join(of_reason)}: {reason}" for reason, of_reason in names.items()]
    # Where a whole part was not made, its sets have a pattern.
    lines += left_behind(out, dict.fromkeys(path.name for name in not_made for path in sorted(out.glob(name))))
    for condition, kind, group in itertools.product(("offset", "plain"), ("both", "clean"), ((2, 3), (2,), (3,))):
        train, valid = ([name for part in parts if (name := select.name(part, group, kind, condition)) in made]
                        for parts in (("train_100", "train_360"), ("dev",)))
        tests = [name for n in group for part in ("dev", "test")
                 if (name := select.name(part, (n,), kind, condition)) in made]
        if train and valid and tests:
            usual = (train[0], valid[0]) == ("train_100_23mix_both_offset", "dev_23mix_both_offset")
            return lines if usual or not lines else [
                *lines, "the recipe runs with what was made so: "
                f"./run.sh --train_set {train[0]} --valid_set {valid[0]} --test_sets \"{' '.join(tests)}\""]
    return lines


def _prepare_part(part: str, lacks: Mapping[int, str], no_noise: str, inputs: Inputs, select: Selection, output: Output,
                  problems: Problems, not_made: dict[str, str], nj: int) -> list[SetSummary]:
    """Prepare the sets of a part; what cannot be made is put into ``not_made``: set -> why.

    Args:
        lacks: number of talkers -> the CSV that is not there.
    """
    why = {(n, condition): lack for n, lack in lacks.items() for condition in select.conditions}
    csvs: dict[tuple[int, str], Rows] = {}
    read: dict[Path, Rows | str] = {}
    for n, condition in itertools.product(sorted({*select.num_talkers} - {*lacks}), select.conditions):
        rows = _read(part, n, condition, inputs, select, read, problems)
        if isinstance(rows, str):
            why[n, condition] = rows
        else:
            csvs[n, condition] = rows
    every = [row for rows in csvs.values() for row in rows.good]
    noisy = inputs.wham is not None and set(select.types) != {"clean"}
    noise = find_noise(every, inputs.wham, output.folder / "wham_sp", inputs.speed_noise, nj) if noisy else {}
    files = Files(find_speech(every, inputs.librispeech, output.folder, nj), noise)
    summaries, complaints = [], {}
    for condition, kind, talkers in itertools.product(select.conditions, select.types, select.groups()):
        name = select.name(part, talkers, kind, condition)
        reasons = [why[n, condition] for n in talkers if (n, condition) in why]
        if kind != "clean" and no_noise:
            reasons.insert(0, no_noise)
        if reasons:
            not_made[name] = reasons[0]
            continue
        make = partial(make_mixture, files=files, kind=kind, condition=condition, rate=select.rate, mode=select.mode)
        summaries.append(_prepare_set(name, [csvs[n, condition] for n in talkers], make, output, complaints))
        if not summaries[-1].sessions:
            not_made[name] = f"none of its rows could be used, see {problems.path}"
    _report(part, csvs, complaints, problems)
    return summaries


def _read(part: str, talkers: int, condition: str, inputs: Inputs, select: Selection, read: dict[Path, "Rows | str"],
          problems: Problems) -> "Rows | str":
    """Return the rows of a condition, which have offsets or whose offsets are drawn, or why there are none.

    Args:
        read: what has been read of this part: CSV -> its rows, or that it cannot be read.
    """
    usual = csv_path(inputs.metadata, talkers, part)
    path = offset_csv(inputs.metadata, inputs.offset_metadata, talkers, part) if condition == "offset" else usual
    if path not in read:
        try:
            read[path] = read_rows(path, talkers, DEBUG_MIXTURES if select.debug else None)
            if path != usual and not read[path].has_offsets:
                raise at(path, 1, "the columns offset (two talkers) or offset1, offset2 (three) are missing",
                         f"get it again: {OFFSETS_FROM[talkers]}")
        except UserError as e:
            problems.add(f"{part}_{talkers}mix", path.name, str(e))
            read[path] = f"{path} cannot be used, see {problems.path}"
    rows = read[path]
    if isinstance(rows, str) or condition == "plain" or rows.has_offsets:
        return rows
    where = (f"put the published ones ({OFFSETS_FROM[talkers]}) beside {inputs.metadata}, or name their folder: "
             "--offset_metadata FOLDER")
    if talkers == 3 and part in ("dev", "test") and not select.draw_offsets:
        return (f"no offsets of three talkers; {where}; or draw offsets, which makes other mixtures than the published "
                "ones: --draw_offsets true (both in ./run.sh --local_data_opts '…')")
    log.warning("%s: has no offsets, they are drawn; %s", path, where)
    return rows


def _prepare_set(name: str, csvs: Sequence[Rows], make: Callable[[Row], tuple[Mixture, list[Utterance], str]],
                 output: Output, complaints: dict[str, str]) -> SetSummary:
    """Write a set; why a row is not in it is put into ``complaints``: file and line -> the first problem."""
    made = _Set()
    for row in itertools.chain.from_iterable(rows.good for rows in csvs):
        try:
            mixture, utterances, order = make(row)
        except UserError as e:
            complaints.setdefault(row.where, str(e))
            continue
        made.lines[row.id] = mixture.to_json()
        made.sources.update(librispeech.set_name(path.split("/")[0]) for path, _ in row.sources)
        made.utterances += utterances
        made.seconds[row.id] = mixture.num_samples / mixture.rate
        made.maps["utt2num_spk"][row.id] = str(len(utterances))
        made.maps["utt2sot_order"][row.id] = order
        if output.write:
            parts = [f"spk{k}" for k in range(1, len(mixture.sources) + 1)]
            parts += ["noise1"] if mixture.noise else []
            for part in parts if output.write_sources else []:
                path = output.folder / name / "audio" / part / f"{row.id}.wav"
                made.maps.setdefault(f"{part}.scp", {})[row.id] = str(path)
    if made.lines:
        _write(made, output, output.folder / name)
    return SetSummary(name, len(made.lines), len(made.utterances), len({u.spk for u in made.utterances}),
                      sum(made.seconds.values()))


def _report(part: str, csvs: Mapping[tuple[int, str], Rows], complaints: Mapping[str, str], problems: Problems) -> None:
    """Make one problem of each bad row of a CSV, in however many sets it is missing."""
    once = {id(rows): (talkers, rows) for (talkers, _), rows in csvs.items()}  # conditions may share a CSV
    for talkers, rows in once.values():
        name = f"{part}_{talkers}mix"
        for row in rows.good:
            with problems.of(name, row.id):
                if row.where in complaints:
                    raise UserError(complaints[row.where])
        for row_id, problem in rows.bad:
            problems.add(name, row_id, problem)


def make_mixture(row: Row, files: Files, kind: str, condition: str, rate: int,
                 mode: str) -> tuple[Mixture, list[Utterance], str]:
    """Return a row as a mixture (sources in the order of the CSV), its utterances, and its :func:`sot_order`.

    Raises:
        UserError: a recording is missing or damaged, or nobody speaks before the mixture ends (mode min).
    """
    speech = [_usable(files.speech[path], row) for path, _ in row.sources]
    begins = [0, *(int(offset * RATE) for offset in offsets_of(row, condition))]  # in samples, as published
    ends = [begin + round(s.duration * RATE) for begin, s in zip(begins, speech)]
    longest = max(ends)
    num_samples = -(-(longest if mode == "max" else min(ends)) * rate // RATE)  # what resample_poly makes of them
    sources = []
    for (path, gain), s, begin in zip(row.sources, speech, begins):
        utt = Path(path).stem
        sources.append(Source(utt, utt.partition("-")[0], s.text, s.wav, 0.0, s.duration, begin / RATE, gain))
    if len({s.spk for s in sources}) < len(sources):
        raise at(row.where, None, "two sources are of one reader", "correct the CSV")
    heard = 1 if kind == "single" else len(sources)
    noise = None
    if kind != "clean":
        recording = _usable(files.noise[row.noise], row)
        if not reaches(recording, longest):
            raise at(row.where, None, f"{recording.wav}: has {recording.samples} samples, too few to be repeated",
                     "copy WHAM!'s noise again")
        noise = Noise(recording.wav, 0.0, row.noise_gain, speed=recording.speed)
    utterances = []
    for source, s in zip(sources[:heard], speech):
        start, end = source.offset + s.onset, min(source.offset + s.end, num_samples / rate)
        if end - start >= 0.01:  # in mode min a late talker may say nothing before the mixture ends
            start, end = round(start, 6), round(end, 6)
            utt = make_utt_id(source.spk, row.id, start, end)
            utterances.append(Utterance(utt, row.id, source.spk, start, end, s.text))
    if not utterances:
        raise at(row.where, None, "nobody says anything before the mixture ends", "prepare mode max")
    order = sot_order(utterances)
    mixture = Mixture(row.id, rate, num_samples, tuple(sources[:heard]), noise, librimix=longest,
                      overlap=overlap_share([(u.start, u.end) for u in utterances]), ties=order.count(TIED))
    return mixture, utterances, order


def _usable(found: "Speech | NoiseFile | str", row: Row) -> "Speech | NoiseFile":
    if isinstance(found, str):
        raise UserError(f"{row.where}: {found}")
    return found


def offsets_of(row: Row, condition: str) -> tuple[float, ...]:
    """Return the seconds after which the talkers after the first begin: 0, from the CSV, or drawn for this id."""
    if condition == "plain":
        return (0.0,) * (len(row.sources) - 1)
    if row.offsets is not None:
        return row.offsets
    chance = Chance("librimix", "offset", row.id)
    return tuple(chance.uniform(*span) for span in OFFSETS[:len(row.sources) - 1])


def sot_order(utterances: Sequence[Utterance]) -> str:
    """Return the speakers of a mixture in the order of :data:`ORDER`, with ``~`` between those whose onsets tie.

    >>> [sot_order([Utterance("", "m", spk, at, 9, "") for spk, at in spans])
    ...  for spans in ([("B", 0.1), ("A", 0.12), ("C", 1.2)], [("B", 0.1), ("A", 0.15)])]
    ['A ~ B C', 'B A']
    """
    ordered = turns([{"session_id": u.rec, "speaker": u.spk, "start_time": u.start, "end_time": u.end, "words": u.text}
                     for u in utterances], ORDER)
    group: dict[str, float] = {}
    first = None
    for turn in sorted(ordered, key=lambda turn: turn.start):
        if first is None or round(turn.start - first, 6) >= ORDER.tie:
            first = turn.start
        group[turn.speaker] = first
    names = [ordered[0].speaker]
    for before, turn in zip(ordered, ordered[1:]):
        names += [TIED] * (group[before.speaker] == group[turn.speaker]) + [turn.speaker]
    return " ".join(names)


def _write(made: _Set, output: Output, out: Path) -> None:
    """Write the data directory; audio of another manifest is removed first, so that none of it is kept."""
    manifest = out / MANIFEST
    if not _same_lines(manifest, made.lines):
        shutil.rmtree(out / "audio", ignore_errors=True)
    for stale in out.glob("*.scp"):
        stale.unlink()
    wav = {key: str(out / "audio" / "mix" / f"{key}.wav") if output.write else render_command(manifest, key)
           for key in made.lines}
    DataDir(out, wav, made.utterances, made.seconds, {**made.maps, MANIFEST: made.lines}).write(out)
    write_source_dirs(out, sorted(made.sources))


def _same_lines(path: Path, lines: Mapping[str, str]) -> bool:
    if not path.exists():
        return False
    with open(path, encoding="utf-8") as f:
        return all(a == b for a, b in itertools.zip_longest(f, (lines[key] + "\n" for key in sorted(lines))))
