"""The AliMeeting recipe on its toy corpus, from the archives' layout to the page; and without the corpus."""

import shutil
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from espnet_mt_llm.datadir.audio import write_audio
from espnet_mt_llm.datadir.kaldi import DataDir
from espnet_mt_llm.datadir.maps import read_map

pytestmark = pytest.mark.xdist_group("alimeeting")
PARTS = ("train", "eval", "test")


def test_far_and_near_hold_what_was_annotated(finished: Callable, toy_corpus: Callable) -> None:
    recipe, _ = finished("alimeeting")
    for part, said in toy_corpus("alimeeting")[1].items():
        far = recipe.said(f"{part}_far")
        meetings = {rec for rec, *_ in far}
        assert len(meetings) == 2, "the debug size"
        assert far == sorted((s["session_id"], s["speaker"], s["start_time"], s["end_time"])
                             for s in said if s["session_id"] in meetings)
        near = recipe.said(f"{part}_near")
        assert sorted((rec[:11], *rest) for rec, *rest in near) == [tuple(row) for row in far]
        assert all(rec.endswith(f"_{spk}") for rec, spk, *_ in near), "a headset hears its speaker alone"
        assert set(read_map(recipe.path / f"debug/data/{part}_far/channel").values()) == {"1"}


def test_text_is_normalised_and_the_same_near_and_far(finished: Callable) -> None:
    recipe, _ = finished("alimeeting")
    for part in PARTS:
        texts = [{(u.spk, u.start): u.text for u in DataDir.read(recipe.path / f"debug/data/{part}_{field}").utterances}
                 for field in ("far", "near")]
        assert texts[0] == texts[1]
        assert not set("".join(texts[0].values())) & set("<>，。？！ＯＫ")
    assert any(text.endswith("OK") or text.endswith("O K") for text in read_map(
        recipe.path / "debug/data/train_far/text").values()), "full-width letters become ordinary ones"


def test_one_bad_meeting_does_not_stop_the_others(checkout: Callable, toy_corpus: Callable, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    shutil.copytree(toy_corpus("alimeeting")[0], root, copy_function=lambda a, b: Path(b).symlink_to(a))
    next(root.glob("Eval_Ali/Eval_Ali_far/audio_dir/R8003_M8001_*")).unlink()
    recipe = checkout("alimeeting")
    options = ("--debug", "true", "--stop_stage", "data")
    write_audio(tmp_path / "noises" / "hum.wav", np.full(1600, 9, np.int16), 16000)
    printed = recipe.run(*options, code=1, ALIMEETING=str(root), NOISE=str(tmp_path / "noises"))
    assert list(read_map(recipe.path / "debug/data/noise.scp")) == ["hum"], "nor what else is prepared"
    listed = (recipe.path / "debug/data/problems.tsv").read_text().splitlines()
    assert listed[0] == "set\tsession\tproblem" and listed[1].startswith("eval_far\tR8003_M8001\t") and len(listed) == 2
    assert "problems.tsv" in printed and "--allow_problems true" in printed
    recipe.run(*options, "--allow_problems", "true", ALIMEETING=str(root))
    assert {rec for rec, *_ in recipe.said("eval_far")} == {"R8008_M8013"} and len(recipe.said("test_far")) > 10


def test_without_the_corpus_it_says_where_to_get_it(checkout: Callable) -> None:
    printed = checkout("alimeeting").run("--debug", "true", code=1, ALIMEETING="downloads/nothing")
    for word in ("Train_Ali_far.tar.gz", "Eval_Ali.tar.gz", "openslr.org/119", "audio_dir", "ALIMEETING="):
        assert word in printed
