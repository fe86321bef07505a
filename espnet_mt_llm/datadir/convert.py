"""Convert segments between the formats that this room reads and writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Mapping, Optional, Sequence

from espnet_mt_llm.common import Pathlike, UserError, at
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import read_map, read_numbers
from espnet_mt_llm.datadir.rttm import read_rttm, write_rttm
from espnet_mt_llm.datadir.seglst import read_seglst, write_seglst
from espnet_mt_llm.datadir.stm import read_stm, write_stm
from espnet_mt_llm.datadir.textgrid import read_textgrid, write_textgrid


@dataclass(frozen=True)
class Format:
    """How a format is recognised, read, and written (None: it takes more than segments)."""

    suffix: str
    read: Callable[[Pathlike], list[dict]]
    write: Optional[Callable[[Pathlike, Iterable], None]] = None


FORMATS = {
    "rttm": Format(".rttm", read_rttm, write_rttm),
    "stm": Format(".stm", read_stm, write_stm),
    "seglst": Format(".json", read_seglst, write_seglst),
    "textgrid": Format(".textgrid", lambda path: _read_textgrids(Path(path))),
    "data_dir": Format("", lambda path: DataDir.read(path).seglst()),
}


def format_of(path: Pathlike, is_input: bool = True) -> str:
    """Return the name of the format of a file by its suffix, or of a directory.

    Raises:
        UserError: the suffix is not known.
    """
    suffix = Path(path).suffix.lower()
    for name, form in FORMATS.items():
        if form.suffix and suffix == form.suffix:
            return name
    if Path(path).is_dir() or (not is_input and not suffix):
        return "data_dir"
    if is_input and not Path(path).exists():
        raise at(path, None, "no such file or directory")
    raise at(path, None, "the format is not known by the suffix", f"name it, one of: {', '.join(FORMATS)}")


def convert(
    inputs: Sequence[Pathlike],
    output: Pathlike,
    input_format: Optional[str] = None,
    output_format: Optional[str] = None,
    wav_scp: Optional[Pathlike] = None,
) -> int:
    """Read all inputs and write them as one output; return the number of segments.

    A TextGrid holds one session: of several, ``output`` is a folder, with a file ``<session>.TextGrid`` for each.

    Raises:
        UserError: a file that cannot be read, a data dir without audio, or several sessions in one TextGrid.
    """
    segments: list[dict] = []
    durations: dict[str, float] = {}
    for path in inputs:
        segments += FORMATS[input_format or format_of(path)].read(path)
        if (Path(path) / "reco2dur").exists():
            durations.update(read_numbers(Path(path) / "reco2dur"))
    name = output_format or format_of(output, is_input=False)
    if name == "data_dir":
        if wav_scp is None:
            raise UserError(f"{output}: a data dir needs the audio of its sessions; give --wav_scp")
        wav = read_map(wav_scp)
        sessions = {segment["session_id"] for segment in segments}
        used = {rec: entry for rec, entry in wav.items() if rec in sessions}
        data = DataDir.from_seglst(segments, used)
        channels = Path(wav_scp).parent / "channel"
        if channels.exists():
            data.extra["channel"] = {rec: number for rec, number in read_map(channels).items() if rec in used}
        data.write(output)
    elif name == "textgrid":
        _write_textgrids(Path(output), segments, durations)
    else:
        FORMATS[name].write(output, segments)
    return len(segments)


def _read_textgrids(path: Path) -> list[dict]:
    """Return the segments of a TextGrid, or of all in a folder."""
    if not path.is_dir():
        return read_textgrid(path)
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == FORMATS["textgrid"].suffix)
    if not found:
        raise at(path, None, "no TextGrid in this folder", "give the folder that the files lie in")
    return [segment for file in found for segment in read_textgrid(file)]


def _write_textgrids(output: Path, segments: Sequence[Mapping], durations: Mapping[str, float]) -> None:
    sessions: dict[str, list[Mapping]] = {session: [] for session in durations}
    for segment in segments:
        sessions.setdefault(segment["session_id"], []).append(segment)
    single = output.suffix.lower() == FORMATS["textgrid"].suffix
    if single and len(sessions) != 1:
        raise at(
            output,
            None,
            f"a TextGrid holds one session, and there are {len(sessions)}",
            "name a folder for all of them: --output <folder> --output_format textgrid",
        )
    for session, of_session in sessions.items():
        path = output if single else output / f"{session}.TextGrid"
        write_textgrid(path, of_session, durations.get(session))
