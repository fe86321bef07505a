"""tools/bench/: every benchmark runs, in a tiny size, and writes its rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name, options, names", [
    ("decode_rtf", ["--clips", "4", "--repeats", "1"], ["decode, batch 1", "decode, batch 16"]),
    ("simulate_mixtures", ["--mixtures", "4", "--sources", "40", "--repeats", "1"],
     [f"{what}, {talkers} talkers{how}" for talkers in (2, 3)
      for what, how in (("epoch", ", streamed"), ("first pass", ", streamed"), ("written with sources", ""),
                        ("drawn (manifest)", ""))]),
    ("validate_data_dir", ["--utterances", "300", "--repeats", "1"],
     ["validate 300 utterances x 4 files, one core"]),
])
def test_a_benchmark_writes_its_rows(repository: Path, tmp_path: Path, name: str, options: list, names: list) -> None:
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
    assert names == {"report", "decode_rtf", "simulate_mixtures", "validate_data_dir"}
