"""Time the validation of a large data dir: 300,000 utterances in four files, beside an awk | sort | cmp pipeline.

The pipeline checks less (order, unique ids, equal ids of the files, the inverse), and has no line numbers to report.
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from report import add_arguments, interleaved, row, show

from espnet_mt_llm.datadir.kaldi import make_utt_id, spk2utt_of, write_map
from espnet_mt_llm.datadir.validate import validate

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
    write_map(path / "spk2utt", spk2utt_of(ids))
    write_map(path / "text", {utt: "a sentence of several words as people say them" for utt in ids})
    write_map(path / "wav.scp", {utt: f"/corpus/audio/{utt}.flac" for utt in ids})


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=300000, help="size of the directory")
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many runs is shown")
    add_arguments(parser)
    args = parser.parse_args()
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
