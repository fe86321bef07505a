"""The LibriMix recipe on its toy corpora, from the official metadata to the page; and without what it is made of."""

from typing import Callable

import pytest

from espnet_mt_llm.datadir.kaldi import DataDir

pytestmark = pytest.mark.xdist_group("librimix")
TALKERS = (2, 3)


def test_mixtures_hold_what_their_rows_name(finished: Callable, toy_corpus: Callable) -> None:
    recipe, _ = finished("librimix")
    for name, said in toy_corpus("librimix")[1].items():
        texts: dict[str, list[str]] = {}
        for s in said:
            texts.setdefault(s["session_id"], []).append(s["words"])
        for kind in ("clean", "both", "clean_offset", "both_offset"):
            data = DataDir.read(recipe.path / f"debug/data/{name}_{kind}")
            assert data.wav and set(data.wav) <= set(texts)
            for mixture in data.wav:
                found = sorted((u for u in data.utterances if u.rec == mixture), key=lambda u: u.start)
                assert sorted(u.text.upper() for u in found) == sorted(texts[mixture])
                assert sorted(u.spk for u in found) == sorted(x.split("-")[0] for x in mixture.split("_"))
                if kind.endswith("offset"):  # the order of the metadata is the order of onsets then
                    assert [u.spk for u in found] == [x.split("-")[0] for x in mixture.split("_")]
                    assert all(b.start - a.start > 0.2 for a, b in zip(found, found[1:]))


def test_sets_of_two_and_three_talkers_together(finished: Callable) -> None:
    recipe, _ = finished("librimix")
    for part in ("train_100", "dev", "test"):
        both = recipe.said(f"{part}_23mix_both_offset")
        assert both == sorted(row for n in TALKERS for row in recipe.said(f"{part}_{n}mix_both_offset"))


def test_nothing_of_the_mixtures_is_written(finished: Callable) -> None:
    recipe, _ = finished("librimix")
    made = [p for p in (recipe.path / "debug/data").rglob("*") if p.suffix in (".wav", ".flac")]
    assert all("wham_sp" in str(path) for path in made), "only noise of another speed, which training rows name"


def test_without_wham_the_clean_conditions_are_made(checkout: Callable, toy_corpus: Callable) -> None:
    root, _ = toy_corpus("librimix")
    recipe = checkout("librimix")
    printed = recipe.run("--debug", "true", "--stop_stage", "data", LIBRISPEECH=str(root / "LibriSpeech"),
                         LIBRIMIX=str(root / "metadata"), WHAM="downloads/nothing")
    made = {p.name for p in (recipe.path / "debug/data").iterdir()}
    assert {"dev_2mix_clean", "test_3mix_clean_offset"} <= made and not [name for name in made if "both" in name]
    assert "WHAM" in printed


def test_without_the_corpora_it_says_where_to_get_them(checkout: Callable, toy_corpus: Callable) -> None:
    root, _ = toy_corpus("librimix")
    nothing = {"LIBRISPEECH": "downloads/nothing", "WHAM": "downloads/nothing", "LIBRIMIX": "downloads/nothing"}
    recipe = checkout("librimix")
    printed = recipe.run("--debug", "true", code=1, **nothing)
    assert "github.com/JorisCos/LibriMix" in printed and "LIBRIMIX=" in printed
    printed = recipe.run("--debug", "true", code=1, **{**nothing, "LIBRIMIX": str(root / "metadata")})
    assert "openslr.org/12" in printed and "LIBRISPEECH=" in printed
