"""Time the text side of AliMeeting Train on one core, beside a plain use of the ``textgrid`` package.

The real TextGrids of the four Eval meetings in ``--root`` are replicated to so many meetings; their audio is a sparse
8-channel file of the right length, of which both ways read the header. Both do the same work: read the TextGrids,
normalise the text, check the ends against the audio, write the data directories ``train_far`` and ``train_near``; the
files must be equal byte by byte. The plain way takes the steps of the published recipes in one Python process: all
intervals by ``textgrid.TextGrid.fromFile`` and indices, lists of lines, a pass that normalises the text, one that keeps
what has text, sorting, writing.
The row "reading alone" leaves out what both do with the intervals; the rows with ``--nj 2`` compare two processes
with one, on Train, and on all parts that the corpus has.
"""

import argparse
import os
import re
import struct
import sys
import tempfile
import unicodedata
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from report import add_arguments, interleaved, row, show

from espnet_mt_llm.corpora import alimeeting
from espnet_mt_llm.datadir.textgrid import read_tiers

RATE = 16000
# Meetings of the other parts.
OTHERS = {"Eval": 8, "Test": 20}
FILES = ("wav.scp", "segments", "text", "utt2spk", "spk2utt", "reco2dur")


def sparse_wav(path: Path, seconds: float, channels: int) -> None:
    """Write the header of a 16-bit file of this length; its silence takes no room on the disk."""
    size = round(seconds * RATE) * channels * 2
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as f:
        f.write(struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, channels, RATE,
                            RATE * channels * 2, channels * 2, 16, b"data", size))
        f.truncate(44 + size)


def replicate(real: Path, root: Path, meetings: int, part: str = "Train") -> None:
    """Make ``<part>_Ali_{far,near}`` of so many meetings under ``root``, each a real one under another name."""
    sources = sorted((real / "Eval_Ali_far" / "textgrid_dir").glob("*.TextGrid"))
    if not sources:
        sys.exit(f"{real}: no Eval_Ali_far/textgrid_dir/*.TextGrid; set MT_TEST_DATA or --root")
    ends = {path: max(tier.spans[-1][1] for tier in read_tiers(path)) for path in sources}
    for number in range(meetings):
        path = sources[number % len(sources)]
        name = f"R{number:04d}_M{number:04d}"
        far, near = (root / f"{part}_Ali_{field}" for field in alimeeting.FIELDS)
        for folder in (far / "textgrid_dir", near / "textgrid_dir"):
            folder.mkdir(parents=True, exist_ok=True)
        (far / "textgrid_dir" / f"{name}.TextGrid").write_bytes(path.read_bytes())
        sparse_wav(far / "audio_dir" / f"{name}_MS{number:03d}.wav", ends[path], 8)
        for headset in sorted((real / "Eval_Ali_near" / "textgrid_dir").glob(f"{path.stem}_*.TextGrid")):
            rec = name + headset.stem.removeprefix(path.stem)
            (near / "textgrid_dir" / f"{rec}.TextGrid").write_bytes(headset.read_bytes())
            sparse_wav(near / "audio_dir" / f"{rec}.wav", ends[path], 1)


def plain(root: Path, out: Path) -> None:
    """Prepare both sets the plain way, in the steps of the published recipes."""
    for field in alimeeting.FIELDS:
        wavs = sorted((root / f"Train_Ali_{field}" / "audio_dir").glob("*.wav"))
        folder = out / f"train_{field}"
        folder.mkdir(parents=True, exist_ok=True)
        segments = plain_segments(wavs, field)
        tables = {name: [] for name in FILES}
        for s in segments:
            utt = f"{s.spk}-{s.rec}-{round(s.start * 100):07d}-{round(s.end * 100):07d}"
            tables["segments"].append(f"{utt} {s.rec} {plain_seconds(s.start)} {plain_seconds(s.end)}")
            tables["utt2spk"].append(f"{utt} {s.spk}")
            tables["text"].append(f"{utt} {s.text}")
        # As a second script does: the transcripts are read, normalised and, when something is left, written.
        tables["text"] = [f"{utt} {words}" for utt, words in
                          ((utt, plain_words(text)) for utt, _, text in (t.partition(" ") for t in tables["text"]))
                          if words]
        kept = {line.split(" ")[0] for line in tables["text"]}
        for name in ("segments", "utt2spk"):
            tables[name] = [line for line in tables[name] if line.split(" ")[0] in kept]
        spk2utt: dict[str, list[str]] = {}
        for line in sorted(tables["utt2spk"]):
            utt, spk = line.split(" ")
            spk2utt.setdefault(spk, []).append(utt)
        tables["spk2utt"] = [f"{spk} {' '.join(utts)}" for spk, utts in spk2utt.items()]
        for wav in wavs:
            rec = rec_of(wav, field)
            tables["wav.scp"].append(f"{rec} {wav}")
            tables["reco2dur"].append(f"{rec} {plain_seconds(plain_duration(wav))}")
            tables.setdefault("channel", []).append(f"{rec} 1")
        if field == "near":
            del tables["channel"]
        for name, lines in tables.items():
            with open(folder / name, "w", encoding="utf-8") as f:
                for line in sorted(lines):
                    f.write(line + "\n")


class Segment:
    """What the published scripts keep of an interval."""

    def __init__(self, rec: str, spk: str, start: float, end: float, text: str):
        self.rec, self.spk, self.start, self.end, self.text = rec, spk, start, end, text


def plain_segments(wavs: list[Path], field: str) -> list[Segment]:
    """Read the TextGrids with the package ``textgrid``, interval by interval; ends are cut at the end of the audio."""
    import textgrid

    segments = []
    for wav in wavs:
        rec, seconds = rec_of(wav, field), plain_duration(wav)
        grid = textgrid.TextGrid.fromFile(str(wav.parents[1] / "textgrid_dir" / f"{rec}.TextGrid"))
        of_rec = []
        for i in range(len(grid)):
            spk = (grid[i].name if field == "far" else rec).split("_")[-1]
            for j in range(len(grid[i])):
                if grid[i][j].mark:
                    end = min(float(grid[i][j].maxTime), seconds)
                    of_rec.append(Segment(rec, spk, float(grid[i][j].minTime), end, grid[i][j].mark.strip()))
        segments += sorted(of_rec, key=lambda s: s.start)
    return segments


def plain_grids(paths: list[Path]) -> list:
    """Read TextGrids with the package ``textgrid``."""
    import textgrid

    return [textgrid.TextGrid.fromFile(str(path)) for path in paths]


def plain_words(text: str) -> str:
    """Normalise as ``zh_char`` does, in the obvious way."""
    for tag in ("<sil>", "<%>", "<->", "<$>", "<#>", "<_>", "<space>"):
        text = text.replace(tag, "")
    text = unicodedata.normalize("NFKC", text).upper()
    text = "".join(c if unicodedata.category(c)[0] in "LMN" or c == "'" else " " for c in text)
    return re.sub("(?<=[\u4e00-\u9fff]) +| +(?=[\u4e00-\u9fff])", "", " ".join(text.split()))


def plain_duration(wav: Path) -> float:
    """Return the seconds that the header says."""
    import soundfile

    return soundfile.info(str(wav)).duration


def plain_seconds(value: float) -> str:
    """Write a time with two to six decimals."""
    whole, _, decimals = f"{value:.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def rec_of(wav: Path, field: str) -> str:
    """Return the recording's id."""
    return "_".join(wav.stem.split("_")[:2]) if field == "far" else wav.stem


def ours(root: Path, out: Path, nj: int = 1, fields: tuple[str, ...] = alimeeting.FIELDS) -> None:
    """Prepare both sets with this package; what it prints is not shown."""
    with redirect_stdout(StringIO()):
        alimeeting.prepare(root, out, nj=nj, fields=fields)


def compare(first: Path, second: Path) -> None:
    """Stop unless both have written the same bytes."""
    for path in sorted(first.glob("train_*/*")):
        if path.read_bytes() != (second / path.relative_to(first)).read_bytes():
            sys.exit(f"{path.relative_to(first)} differs from what the plain way wrote")


def benchmark(real: Path, work: Path, meetings: int, repeats: int) -> list[dict]:
    """Return the rows."""
    replicate(real, work / "corpus", meetings)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    times = interleaved(lambda: ours(work / "corpus", work / "ours"), lambda: plain(work / "corpus", work / "plain"),
                        repeats)
    compare(work / "plain", work / "ours")
    rows = [row(f"{meetings} meetings, far and near, one core", *times, "s")]
    grids = sorted((work / "corpus").rglob("*.TextGrid"))
    reading = interleaved(lambda: [read_tiers(path) for path in grids], lambda: plain_grids(grids), repeats)
    rows.append(row(f"{meetings} meetings, reading alone, one core", *reading, "s"))
    far, _ = interleaved(lambda: ours(work / "corpus", work / "ours", 1, ("far",)), lambda: None, repeats)
    rows.append(row(f"{meetings} meetings, far alone, one core", far, None, "s"))
    os.sched_setaffinity(0, cores)
    for what, others in ((f"{meetings} meetings", {}), ("Train, Eval and Test", OTHERS)):
        for part, number in others.items():
            replicate(real, work / "corpus", number, part)
        two, one = interleaved(lambda: ours(work / "corpus", work / "ours", 2),
                               lambda: ours(work / "corpus", work / "ours", 1), repeats)
        rows.append(row(f"{what}, --nj 2 against --nj 1", two, one, "s"))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("MT_TEST_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data"
    parser.add_argument("--root", type=Path, default=Path(default) / "alimeeting",
                        help="the folder of Eval_Ali_far and Eval_Ali_near with textgrid_dir")
    parser.add_argument("--meetings", type=int, default=212, help="as many as AliMeeting Train has")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many runs is shown")
    add_arguments(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = benchmark(args.root, Path(work), args.meetings, args.repeats)
    show(rows, args.json)


if __name__ == "__main__":
    main()
