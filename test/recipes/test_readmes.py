"""Descriptions of the corpora's recipes: the results stage fills them, and what they tell people to type exists."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_mt_llm.scoring.results import make_results
from espnet_mt_llm.scoring.score import score_decode
from espnet_mt_llm.scoring.table import BEGIN, END

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ("alimeeting", "aishell4", "aishell5", "librimix")
DRIVER = ROOT / "egs2" / "TEMPLATE" / "mtasr1" / "mtasr.sh"


def recipe(corpus: str) -> Path:
    return ROOT / "egs2" / corpus / "mtasr1"


def readme(corpus: str) -> str:
    return (recipe(corpus) / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_results_stage_fills_the_empty_block(corpus: str, tmp_path: Path) -> None:
    shutil.copy(recipe(corpus) / "README.md", tmp_path)
    ref, hyp = tmp_path / "dump" / "test", tmp_path / "exp" / "sctc" / "01_sctc_single" / "decode_sctc" / "test"
    for folder in (ref, hyp):
        folder.mkdir(parents=True)
    (ref / "supervision").write_text('c1 [{"spk":"A","start":0.0,"end":1.0,"text":"one two"}]\n')
    (hyp / "hyp.seglst.json").write_text(json.dumps([{"session_id": "c1", "speaker": "0", "words": "one"}]))
    score_decode(ref, hyp)
    make_results(tmp_path, tmp_path / "exp", tmp_path / "README.md", None, None)
    before, after = readme(corpus), (tmp_path / "README.md").read_text(encoding="utf-8")
    assert before.count(BEGIN) == after.count(BEGIN) == before.count(END) == after.count(END) == 1
    assert before.split(BEGIN)[0] == after.split(BEGIN)[0] and before.split(END)[1] == after.split(END)[1]
    block = after.split(BEGIN)[1].split(END)[0]
    assert "| sctc | 01_sctc_single | decode_sctc | test | 1 | 1 | 50.00 |" in block and "No results yet" not in block


@pytest.mark.parametrize("corpus", CORPORA)
def test_options_modules_and_files_exist(corpus: str) -> None:
    text, folder = readme(corpus), recipe(corpus)
    scripts = "\n".join(path.read_text() for path in (DRIVER, folder / "local" / "data.sh"))
    known = set(re.findall(r"^(\w+)=", scripts, re.MULTILINE))
    nested = {module for option, module in (("--clip_args", "make_clips"), ("--score_args", "score_decode"))
              if option in text}
    for module in nested | set(re.findall(r"espnet_mt_llm\.bin\.(\w+)", text)):
        path = ROOT / "espnet_mt_llm" / "bin" / f"{module}.py"
        known |= set(re.findall(r'"--(\w+)"', path.read_text()))
    assert set(re.findall(r"--(\w+)", text)) <= known
    for name in re.findall(r"(?<![\w/])(?:conf|local)/[\w./]*\w", text):
        assert (folder / name).exists(), name
    for variable in re.findall(r"\b([A-Z][A-Z0-9]+)=/corpora", text):
        assert f"{variable}=" in (folder / "db.sh").read_text(), variable
    for policy in re.findall(r"--clip_policy (\w+)", text):
        assert f'"{policy}"' in (ROOT / "espnet_mt_llm" / "datadir" / "clip_policies.py").read_text(), policy


@pytest.mark.parametrize("corpus", CORPORA)
def test_commands_get_past_the_parsers(corpus: str) -> None:
    """Options of single lines of the table, in a dry run; what stage 1 is told, it knows."""
    options = re.findall(r"`(--[^`]+)`", readme(corpus))
    assert options
    for line in options:
        done = subprocess.run(["bash", "-c", f"./run.sh --dry_run true --stage 1 --stop_stage 3 {line}"],
                              cwd=recipe(corpus), capture_output=True, text=True,
                              env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
        assert done.returncode == 0, (line, done.stdout + done.stderr)


@pytest.mark.parametrize("corpus", CORPORA)
def test_tables_are_whole(corpus: str) -> None:
    """Every row has as many cells as its head: a shifted number would stand under another protocol."""
    lines = readme(corpus).split("\n")
    for number, line in enumerate(lines):
        if line.startswith("|") and not lines[number - 1].startswith("|"):
            head = line.count("|")
        elif line.startswith("|"):
            assert line.replace("\\|", "").count("|") == head, f"{corpus}: line {number + 1}"


@pytest.mark.parametrize("corpus", CORPORA)
def test_columns_of_published_results_carry_their_protocol(corpus: str) -> None:
    """Every error rate says over what speakers are permuted, every one that looks at times its collar."""
    lines = readme(corpus).split("## Published results")[1].split("\n")
    for head in (line for before, line in zip(lines, lines[1:]) if line.startswith("|") and not before.startswith("|")):
        for cell in head.strip("|").split("|"):
            if re.search(r"[CW]ER\b|Δ", cell):
                assert re.search(r"\b(clip|segment|session|recording|mixture)\b|\bunit\b.* not stated", cell), head
            if re.search(r"\b(DER|tcp[CW]ER)\b", cell):
                assert "collar" in cell or re.search(r"\| (collar|protocol)\b", head), head
