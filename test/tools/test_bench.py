"""tools/bench/: every benchmark runs, in a tiny size, and writes its rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name, options, names", [
    ("decode_llm", ["--clips", "2", "--seconds", "2", "--batches", "1", "2", "--size", "16", "--vocabulary", "60",
                    "--mean_tokens", "20", "--beam", "2", "--repeats", "1"],
     ["greedy, batch 1", "greedy, batch 2", "beam 2, batch 1"]),
    ("decode_rtf", ["--clips", "4", "--repeats", "1"], ["decode, batch 1", "decode, batch 16"]),
    ("feature_cache", ["--clips", "2"],
     [f"{system}: {what}" for system in ("speakerlm", "dual")
      for what in ("an epoch on cached frames", "what comes before the first epoch")]),
    ("layouts", ["--batch", "2", "--seconds", "3", "--size", "32", "--wide", "32", "--tokens", "5", "--repeats", "1"],
     ["interleave 1:1, width 32, forward and backward", "interleave 1:.25, width 32, forward and backward",
      "time_concat, width 32, forward and backward",
      "interleave 1:1 (ours) and an MLP adapter (peer), width 32, forward",
      *(f"{what}, interleave {ratio}{of}" for ratio in ("1:1", "1:.25") for what, of in (
          ("training step", ", Qwen2 of 4 layers and width 32"), ("share of layout and packing", "")))]),
    ("librimix", ["--mixtures", "3", "--repeats", "1", "--rows", "10"],
     ["mix_both, written (published: six files)", "mix_both, on the fly (published: six files)",
      "data directory prepared"]),
    ("make_clips", ["--minutes", "1", "--mixtures", "100", "--repeats", "1"],
     [*(f"{policy}, 1 min, 8-channel {what}" for what in ("WAV from the disk", "WAV from the page cache", "FLAC")
        for policy in ("no_overlap_cut", "utterance_group")),
      "two jobs against one, 16 meetings", "memory, one meeting", "memory, 100 mixtures"]),
    ("permutation", ["--bce", "2", "20", "--bce_speakers", "3", "--ctc", "2", "20", "10", "4",
                     "--ctc_speakers", "2", "3", "--repeats", "1"],
     ["PIT BCE, 3 talkers", *(f"PIT CTC, {talkers} talkers{how}" for talkers in (2, 3)
                              for how in ("", ", as in the model's step"))]),
    ("prepare_alimeeting", ["--meetings", "4", "--repeats", "1"],
     ["4 meetings, far and near, one core", "4 meetings, reading alone, one core",
      "4 meetings, far alone, one core", "4 meetings, --nj 2 against --nj 1",
      "Train, Eval and Test, --nj 2 against --nj 1"]),
    ("simulate_mixtures", ["--mixtures", "4", "--sources", "40", "--repeats", "1"],
     [f"{what}, {talkers} talkers{how}" for talkers in (2, 3)
      for what, how in (("epoch", ", streamed"), ("first pass", ", streamed"), ("written with sources", ""),
                        ("drawn (manifest)", ""))]),
    ("ume_step", ["--clips", "1", "--seconds", "1", "--repeats", "1"], ["joint step, small"]),
    ("validate_data_dir", ["--utterances", "300", "--repeats", "1"],
     ["validate 300 utterances x 4 files, one core"]),
])
def test_a_benchmark_writes_its_rows(request: pytest.FixtureRequest, repository: Path, tmp_path: Path, name: str,
                                     options: list, names: list) -> None:
    if name == "prepare_alimeeting":
        request.getfixturevalue("real_data")  # its meetings are real ones
    done = subprocess.run([sys.executable, repository / "tools/bench" / f"{name}.py", "--json", tmp_path / "rows.json",
                           *options], capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert list(row) == ["name", "ours", "peer", "ratio", "unit", "machine"]
        assert row["ours"] > 0 and row["unit"] and row["machine"] and row["name"] in done.stdout
        assert (row["peer"] is None) == (row["ratio"] is None)


def test_there_is_a_test_for_each(repository: Path) -> None:
    names = {path.stem for path in (repository / "tools/bench").glob("*.py")}
    assert names == {"report", "decode_llm", "decode_rtf", "feature_cache", "layouts", "librimix", "make_clips",
                     "permutation", "prepare_alimeeting", "simulate_mixtures", "ume_step", "validate_data_dir"}
