"""Subset, copy with prefixes, combine and split data directories; lines are kept as they were written."""

import itertools
import json
import logging
import shutil
from pathlib import Path
from typing import Callable, Iterable, Mapping, Optional, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at, progress
from espnet_mt_llm.datadir.kaldi import read_segments, spk2utt_of
from espnet_mt_llm.datadir.maps import (
    format_seconds,
    is_partial,
    key_of,
    read_map,
    read_numbers,
    read_table,
    write_map,
    write_table,
)

log = logging.getLogger(__name__)

# File name -> map, without spk2utt, which is made from utt2spk whenever a directory is written.
Tables = dict[str, dict[str, str]]


def read_tables(path: Pathlike) -> Tables:
    """Read every file of a data directory whose meaning is known.

    Raises:
        UserError: no such directory, no ``wav.scp`` or ``utt2spk``, a file that cannot be read, or utterances
            without a place in the audio.
    """
    path = Path(path)
    if not path.is_dir():
        raise at(path, None, "no such data directory", "prepare it first (stage 1)")
    for name in ("wav.scp", "utt2spk"):
        if not (path / name).exists():
            raise at(path / name, None, "no such file", "make it in the preparation (stage 1)")
    tables = {
        f.name: read_table(f) for f in sorted(path.iterdir()) if key_of(f.name) and f.name != "spk2utt" and f.is_file()
    }
    places = "segments" if "segments" in tables else "wav.scp"
    for utt in tables["utt2spk"]:
        if utt not in tables[places]:
            raise at(path / places, None, f"the utterance '{utt}' is missing", f"repair: utils/fix_data_dir.sh {path}")
    return tables


def write_tables(path: Pathlike, tables: Tables) -> None:
    """Write the files of a data directory and ``spk2utt``; remove known files that it no longer has.

    A map that no recording has an entry in any more (``spk3.scp`` of a subset with two talkers) is not written.

    Raises:
        UserError: there is no utterance: an empty directory would only fail later.
    """
    path = Path(path)
    if not tables["utt2spk"]:
        raise at(path, None, "no utterance would be left; nothing was written", "look at the ids and the audio first")
    tables = {name: table for name, table in tables.items() if table or not is_partial(name)}
    for name, table in tables.items():
        write_table(path / name, table)
    write_map(path / "spk2utt", spk2utt_of(sorted(tables["utt2spk"].items())))
    for old in path.iterdir():
        if old.is_file() and key_of(old.name) and old.name not in tables and old.name != "spk2utt":
            old.unlink()


def recording_of(tables: Tables) -> dict[str, str]:
    """Return the recording of each utterance: the second column of ``segments``, else the utterance itself."""
    if "segments" in tables:
        return {utt: (value.split() or [""])[0] for utt, value in tables["segments"].items()}
    return {utt: utt for utt in tables["utt2spk"]}


def restrict(tables: Tables, utts: Iterable[str]) -> Tables:
    """Keep these utterances, their recordings and their speakers in every file."""
    keep, of = set(utts), recording_of(tables)
    recs = {of[utt] for utt in keep if utt in of}
    spks = {tables["utt2spk"][utt] for utt in keep if utt in tables["utt2spk"]}
    wanted = {"utt": keep, "rec": recs, "spk": spks}
    restricted = {}
    for name, table in tables.items():
        # utt2num_spk counts per recording here, per utterance in other tools' directories.
        ids = recs | keep if name == "utt2num_spk" else wanted[str(key_of(name))]
        restricted[name] = {key: value for key, value in table.items() if key in ids}
    return restricted


def subset(
    path: Pathlike,
    out: Pathlike,
    *,
    count: Optional[int] = None,
    how: str = "spread",
    utt_list: Optional[Pathlike] = None,
    spk_list: Optional[Pathlike] = None,
    rec_list: Optional[Pathlike] = None,
) -> int:
    """Write a part of a data directory, and return the number of its utterances.

    Args:
        how: which ``count`` utterances: ``spread`` evenly over the list, ``first``, ``last``, ``shortest``, ``per_spk``
            (``count`` of every speaker), ``speakers`` (whole speakers until there are ``count`` utterances) or
            ``recordings`` (the first ``count`` recordings, complete).
        utt_list, spk_list, rec_list: files whose first column names what to keep, instead of ``count``.

    Raises:
        UserError: an unknown ``how``, fewer utterances than asked for, or an id of a list that is not there.
    """
    tables = read_tables(path)
    of, utt2spk = recording_of(tables), tables["utt2spk"]
    lists = [(utt_list, {utt: utt for utt in utt2spk}), (spk_list, utt2spk), (rec_list, of)]
    chosen = next(((file, names) for file, names in lists if file is not None), None)
    if chosen is not None:
        file, names = chosen
        wanted = _first_column(file)
        known = set(names.values())
        for number, name in enumerate(wanted, 1):
            if name not in known:
                raise at(file, number, f"'{name}' is not in {path}")
        wanted_set = set(wanted)
        utts = [utt for utt in utt2spk if names[utt] in wanted_set]
    elif count is None or count < 1:
        raise UserError(f"{path}: say how many utterances to keep (1 or more), or give a list")
    else:
        utts = _choose(tables, count, how, path)
    write_tables(out, restrict(tables, utts))
    _copy_others(Path(path), Path(out))
    return len(utts)


def _choose(tables: Tables, count: int, how: str, path: Pathlike) -> list[str]:
    utt2spk = tables["utt2spk"]
    utts = sorted(utt2spk)
    by_spk = {spk: value.split() for spk, value in spk2utt_of(sorted(utt2spk.items())).items()}
    of = recording_of(tables)
    ways: dict[str, Callable[[], list[str]]] = {
        "spread": lambda: _spread(utts, count),
        "first": lambda: utts[:count],
        "last": lambda: utts[-count:],
        "shortest": lambda: sorted(utts, key=lambda utt: (_length(tables, utt), utt))[:count],
        "per_spk": lambda: [utt for of_spk in by_spk.values() for utt in _spread(of_spk, min(count, len(of_spk)))],
        "speakers": lambda: _whole_speakers(by_spk, count),
        "recordings": lambda: [utt for utt in utts if of[utt] in set(sorted(set(of.values()))[:count])],
    }
    if how not in ways:
        raise UserError(f"unknown way to choose '{how}'; valid: {', '.join(ways)}")
    available = len(set(of.values())) if how == "recordings" else len(utts)
    if how != "per_spk" and count > available:
        raise at(path, None, f"{count} asked for, but there are {available}", "ask for fewer")
    return ways[how]()


def _spread(utts: Sequence[str], count: int) -> list[str]:
    return [utts[i * len(utts) // count] for i in range(count)]


def _whole_speakers(by_spk: Mapping[str, list[str]], count: int) -> list[str]:
    chosen: list[str] = []
    for utts in by_spk.values():
        if len(chosen) >= count:
            break
        chosen += utts
    return chosen


def _length(tables: Tables, utt: str) -> float:
    if "segments" in tables:
        _, start, end = tables["segments"][utt].split()
        return float(end) - float(start)
    for name in ("utt2dur", "reco2dur"):
        if utt in tables.get(name, {}):
            return float(tables[name][utt])
    from espnet_mt_llm.datadir.audio import duration

    return duration(tables["wav.scp"][utt])


def copy(
    path: Pathlike,
    out: Pathlike,
    *,
    utt_prefix: str = "",
    spk_prefix: str = "",
    rec_prefix: str = "",
    utt_suffix: str = "",
    spk_suffix: str = "",
) -> None:
    """Copy a data directory and rename what is in it, e.g. to combine it with its original.

    Without ``segments`` a recording is an utterance, and is renamed with it. A utterance id must still begin with its
    speaker, so a prefix of utterances is normally one of speakers as well.

    Raises:
        UserError: the new ids would not begin with their speakers.
    """
    tables = read_tables(path)
    spks = {spk: f"{spk_prefix}{spk}{spk_suffix}" for spk in tables["utt2spk"].values()}
    utts = {utt: f"{utt_prefix}{utt}{utt_suffix}" for utt in tables["utt2spk"]}
    recs = {rec: f"{rec_prefix}{rec}" for rec in tables["wav.scp"]} if "segments" in tables else utts
    for utt, spk in tables["utt2spk"].items():
        if utt.startswith(spk) and utt != spk and not utts[utt].startswith(spks[spk]):
            raise UserError(
                f"{path}: '{utts[utt]}' would not begin with its speaker '{spks[spk]}', and files could not be "
                "sorted by both; give --utt-prefix and --spk-prefix the same value"
            )
    new_name = {"utt": utts, "spk": spks, "rec": recs}
    renamed: Tables = {}
    for name, table in tables.items():
        names = new_name[str(key_of(name))]
        if name == "utt2num_spk" and set(table) <= set(utts):
            names = utts
        renamed[name] = {
            names.get(key, key): f"{rec_prefix}{value}" if name == "reco2session"
            else _renamed_value(name, value, spks, recs)
            for key, value in table.items()
        }
    write_tables(out, renamed)
    _copy_others(Path(path), Path(out))


def _renamed_value(name: str, value: str, spks: Mapping[str, str], recs: Mapping[str, str]) -> str:
    if name == "utt2spk":
        return spks[value]
    if name == "segments":
        rec, _, times = value.partition(" ")
        return f"{recs.get(rec, rec)} {times}"
    if name == "utt2sot_order":
        return " ".join(spks.get(word, word) for word in value.split())
    if name == "reco2seats":
        seats = (word.rpartition("=") for word in value.split())
        return " ".join(f"{spks.get(spk, spk)}{sign}{seat}" for spk, sign, seat in seats)
    if name == "mixtures.jsonl":
        mixture = json.loads(value)
        return json.dumps({**mixture, "id": recs.get(mixture["id"], mixture["id"])}, ensure_ascii=False)
    return value


def combine(out: Pathlike, paths: Sequence[Pathlike]) -> None:
    """Put several data directories together.

    Where only some have ``segments``, the others get one line per recording; any other file that only some have is left
    out with a warning, except what not every recording has anyway (``spk2.scp``, ``channel`` …).

    Raises:
        UserError: an id in two directories with different values.
    """
    all_tables = [read_tables(path) for path in paths]
    if any("segments" in tables for tables in all_tables):
        all_tables = [_with_segments(tables) for tables in all_tables]
    combined: Tables = {}
    for name in sorted(set().union(*all_tables)):
        having = [path for path, tables in zip(paths, all_tables) if name in tables]
        if len(having) < len(paths) and not is_partial(name):
            log.warning("%s is left out: only %s has it", name, ", ".join(map(str, having)))
            continue
        merged: dict[str, str] = {}
        origin: dict[str, Pathlike] = {}
        for path, tables in zip(paths, all_tables):
            for key, value in tables.get(name, {}).items():
                if merged.setdefault(key, value) != value or (key_of(name) == "utt" and key in origin):
                    raise at(
                        Path(path) / name,
                        None,
                        f"'{key}' is also in {origin[key]}",
                        "rename one: utils/copy_data_dir.sh --utt-prefix far- --spk-prefix far- --rec-prefix far- "
                        f"{path} new",
                    )
                origin.setdefault(key, path)
        combined[name] = merged
    write_tables(out, combined)


def _with_segments(tables: Tables) -> Tables:
    if "segments" in tables:
        return tables
    return {
        **tables,
        "segments": {utt: f"{utt} 0.00 {format_seconds(_length(tables, utt))}" for utt in tables["utt2spk"]},
    }


def split(path: Pathlike, parts: int, *, by: str = "rec", out: Optional[Pathlike] = None) -> list[Path]:
    """Split a data directory into ``parts`` of about the same number of utterances; return the parts.

    Args:
        by: what stays together: ``rec`` (recordings), ``spk`` (speakers) or ``utt`` (nothing).
        out: folder of the parts ``1`` … ``parts``; default Kaldi's ``<path>/split<parts>``, with ``utt`` or
            ``reco`` behind.

    Raises:
        UserError: fewer units than parts.
    """
    path, tables = Path(path), read_tables(path)
    units = {"rec": recording_of(tables), "spk": tables["utt2spk"], "utt": {utt: utt for utt in tables["utt2spk"]}}
    if by not in units:
        raise UserError(f"cannot split by '{by}'; valid: rec, spk, utt")
    folder = Path(out) if out else path / f"split{parts}{dict(rec='reco', spk='', utt='utt')[by]}"
    groups = divide(sorted((units[by][utt], utt) for utt in tables["utt2spk"]), parts, path)
    written = []
    for number, utts in enumerate(groups, 1):
        write_tables(folder / str(number), restrict(tables, utts))
        _copy_others(path, folder / str(number))
        written.append(folder / str(number))
    return written


def divide(pairs: Sequence[tuple[str, str]], parts: int, where: Pathlike) -> list[list[str]]:
    """Divide (unit, item) pairs, sorted by unit, into ``parts`` lists of similar length that break no unit.

    Raises:
        UserError: fewer units than parts.
    """
    units = [[item for _, item in group] for _, group in itertools.groupby(pairs, key=lambda pair: pair[0])]
    if not 1 <= parts <= len(units):
        raise at(where, None, f"cannot make {parts} parts of {len(units)}", f"ask for 1 to {len(units)} parts")
    groups: list[list[str]] = [[] for _ in range(parts)]
    done, part = 0, 0
    for i, unit in enumerate(units):
        # Go on when this part has its share, or when every part left needs one of the units left.
        share = done + len(unit) / 2 > len(pairs) * (part + 1) / parts
        if groups[part] and part < parts - 1 and (share or len(units) - i <= parts - part - 1):
            part += 1
        groups[part] += unit
        done += len(unit)
    return groups


def make_reco2dur(path: Pathlike) -> dict[str, float]:
    """Write ``reco2dur`` from the headers of the audio, and return it."""
    from espnet_mt_llm.datadir.audio import duration

    wav = read_map(Path(path) / "wav.scp")
    durations = {rec: duration(entry) for rec, entry in progress(wav.items(), "headers", len(wav))}
    write_map(Path(path) / "reco2dur", {rec: format_seconds(seconds) for rec, seconds in durations.items()})
    return durations


def make_utt2dur(path: Pathlike) -> dict[str, float]:
    """Write ``utt2dur`` from ``segments``, else from ``reco2dur`` or the headers, and return it."""
    path = Path(path)
    if (path / "segments").exists():
        durations = {utt: end - start for utt, (_, start, end) in read_segments(path / "segments").items()}
    elif (path / "reco2dur").exists():
        durations = read_numbers(path / "reco2dur")
    else:
        durations = make_reco2dur(path)
    write_map(path / "utt2dur", {utt: format_seconds(seconds) for utt, seconds in durations.items()})
    return durations


def _first_column(path: Pathlike) -> list[str]:
    return list(read_map(path))


def _copy_others(path: Path, out: Path) -> None:
    """Take along small notes whose meaning only the recipe knows (``README``)."""
    for f in path.iterdir():
        if f.is_file() and not key_of(f.name) and not f.name.startswith("."):
            shutil.copyfile(f, out / f.name)
