"""Time the validation of a large data dir: 300,000 utterances in four files, beside an awk | sort | cmp pipeline.

The pipeline checks less (order, unique ids, equal ids of the files, the inverse), and has no line numbers to report.
With ``--memory N`` instead: the peak memory of the check, and of reading sources of simulations, for conversations of N
utterances, ten in each, in seven files.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from report import add_arguments, interleaved, row, show

from espnet_mt_llm.datadir.kaldi import make_utt_id, spk2utt_of
from espnet_mt_llm.datadir.maps import write_map
from espnet_mt_llm.datadir.validate import validate

ROOT = str(Path(__file__).resolve().parents[2])
PARTS = [
    (
        "validate",
        "import sys; from espnet_mt_llm.datadir.validate import validate; "
        "assert not validate(sys.argv[1] + '/data', audio=False)",
    ),
    (
        "sources",
        "import sys; from espnet_mt_llm.simulation.sources import read_sources; read_sources(sys.argv[1], ['data'])",
    ),
]

PIPELINE = r"""
set -e -o pipefail
cd "$1"
export LC_ALL=C
for f in wav.scp utt2spk spk2utt text; do
  awk '{print $1}' $f > $2/$f.ids
  sort -c -u $2/$f.ids
done
cmp $2/utt2spk.ids $2/text.ids
cmp $2/utt2spk.ids $2/wav.scp.ids
awk '{for (i = 2; i <= NF; i++) print $i, $1}' spk2utt | sort > $2/inverse
cmp $2/inverse utt2spk
awk 'index($1, $2) != 1 {exit 1}' utt2spk
awk 'NF < 2 {exit 1}' text
"""


def make_data_dir(path: Path, utterances: int) -> None:
    """Write a valid directory: wav.scp, utt2spk, spk2utt and text; no audio behind it."""
    ids = {}
    for i in range(utterances):
        spk = f"S{i % 500:04d}"
        ids[make_utt_id(spk, f"R{i // 100:05d}", (i % 100) * 7.5, (i % 100) * 7.5 + 6.25)] = spk
    write_map(path / "utt2spk", ids)
    write_map(path / "spk2utt", spk2utt_of(sorted(ids.items())))
    write_map(path / "text", {utt: "a sentence of several words as people say them" for utt in ids})
    write_map(path / "wav.scp", {utt: f"/corpus/audio/{utt}.flac" for utt in ids})


def make_conversations(path: Path, utterances: int) -> None:
    """Write a valid directory of conversations, speaker by speaker; no audio behind it."""
    path.mkdir()
    with ExitStack() as files:
        names = ("wav.scp", "reco2dur", "utt2num_spk", "utt2spk", "spk2utt", "segments", "text")
        write = {name: files.enter_context(open(path / name, "w")).write for name in names}
        for r in range(utterances // 10):
            rec = f"conversation_{r:08d}"
            write["wav.scp"](f"{rec} /corpus/dump/simulated/audio/{r // 1000:05d}/{rec}.flac\n")
            write["reco2dur"](f"{rec} 35.00\n")
            write["utt2num_spk"](f"{rec} 10\n")
        for s in range(1000):
            spk = f"S{s:04d}"
            write["spk2utt"](spk)
            # The multiplier spreads the speakers over all conversations.
            for r, i in sorted(divmod(u * 7919 % utterances, 10) for u in range(s, utterances, 1000)):
                rec = f"conversation_{r:08d}"
                utt = make_utt_id(spk, rec, i * 3.0, i * 3.0 + 3.5)
                write["utt2spk"](f"{utt} {spk}\n")
                write["segments"](f"{utt} {rec} {i * 3.0:.2f} {i * 3.0 + 3.5:.2f}\n")
                write["text"](f"{utt} a sentence of several words as people say them\n")
                write["spk2utt"](f" {utt}")
            write["spk2utt"]("\n")


def peak(code: str, *args: object) -> float:
    """Return the MiB that a process with this code had at most."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env={**os.environ, "PYTHONPATH": ROOT})
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss / 1024


def memory(utterances: int) -> list[dict]:
    """Return the rows of what the check and the sources need."""
    with tempfile.TemporaryDirectory() as tmp:
        make_conversations(Path(tmp, "data"), utterances)
        return [row(f"{what}, {utterances} utterances", peak(code, tmp), None, "MiB") for what, code in PARTS]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=300000, help="size of the directory")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many runs is shown")
    parser.add_argument("--memory", type=int, metavar="N", help="measure the memory for N utterances (not a multiple "
                        "of 7919)")
    add_arguments(parser)
    args = parser.parse_args()
    if args.memory:
        return show(memory(args.memory), args.json)
    # One core for both: the pipeline would else run its parts side by side.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as tmp:
        data, work = Path(tmp, "data"), Path(tmp, "work")
        work.mkdir()
        make_data_dir(data, args.utterances)

        def ours() -> None:
            problems = validate(data, audio=False)
            assert not problems, problems[0]

        def peer() -> None:
            subprocess.run(["bash", "-c", PIPELINE, "bash", str(data), str(work)], check=True)

        seconds = interleaved(ours, peer, args.repeats)
    show([row(f"validate {args.utterances} utterances x 4 files, one core", *seconds, "s")], args.json)


if __name__ == "__main__":
    main()
