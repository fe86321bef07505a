"""Registrations of training clips: who, from where, and never from inside the clip."""

import json
from pathlib import Path
from typing import Optional

import numpy as np
import pytest

from espnet_mt_llm.common import Chance, UserError
from espnet_mt_llm.train.registering import Registering, Registrar, voices


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Sessions M1 (A, B) and M2 (A, C, 17), stretches every 10 s."""
    rows = []
    for spk, rec, times in (("A", "M1", (0, 30, 60)), ("B", "M1", (10,)), ("A", "M2", (0,)), ("C", "M2", (20, 40)),
                            ("17", "M2", (70,))):
        rows += [{"spk": spk, "rec": rec, "start": float(t), "end": t + 5.0, "wav": f"{rec}.wav"} for t in times]
    (tmp_path / "enrolment").write_text("".join(
        f"{r['spk']}-{r['rec']}-{round(r['start'] * 100):07d}-{round(r['end'] * 100):07d} {json.dumps(r)}\n"
        for r in rows))
    return tmp_path


def draws(dump: Path, mode: str, clips: list, speakers: list, number: int = 60, **conf: object) -> list:
    registrar = Registrar(dump, Registering(mode, **conf))
    return [registrar.draw(clips, speakers, Chance(i)) for i in range(number)]


def test_nothing_comes_from_inside_the_clip(dump: Path) -> None:
    for found in draws(dump, "match", ["M1-0000000-0004000"], ["A", "B"]):
        assert set(found.speakers) == {"A"}  # B talks alone only inside: he keeps a number
        assert set(found.stretches[0]) == {"A-M1-0006000-0006500", "A-M2-0000000-0000500"}


def test_speakers_and_names(dump: Path) -> None:
    found = draws(dump, "match", ["M2-0003000-0006000"], ["17", "C", "A"])
    assert {tuple(sorted(f.speakers)) for f in found} == {("17", "A", "C")}
    assert found[0].names == {"17": "S17", "C": "C", "A": "A"}
    assert len({tuple(f.speakers) for f in found}) == 6  # every order


def test_distractors_are_of_other_sessions(dump: Path) -> None:
    for found in draws(dump, "over", ["M1-0005000-0005500"], ["A"], max_distractors=5):
        extra = set(found.speakers) - {"A"}
        assert extra and extra <= {"C", "17"} and all(found.stretches)
    with pytest.raises(UserError, match="no speaker of another session than that of clip 'M1-0005000-0005500'"):
        draws(dump, "over", ["M1-0005000-0005500", "M2-0005000-0005500"], ["A", "C"])


def test_rivals_sound_like_a_speaker_of_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the distractors are of the nearest voices; none talks in the clip, and without the share none is."""
    monkeypatch.setattr("espnet_mt_llm.train.registering.NEAREST", 4)
    # Voices on a circle: neighbours sound alike.
    spks = [f"s{k:02d}" for k in range(40)]
    (tmp_path / "enrolment").write_text("".join(
        f"{s}-{s}-0000000-0000500 {json.dumps({'spk': s, 'rec': s, 'start': 0.0, 'end': 5.0, 'wav': f'{s}.wav'})}\n"
        for s in spks))
    angles = {s: 2 * np.pi * k / 40 for k, s in enumerate(spks)}
    embeddings = {f"{s}-{s}-0000000-0000500": (k + 1) * np.array([np.cos(angles[s]), np.sin(angles[s])])
                  for k, s in enumerate(spks)}
    near = {"s38", "s39", "s01", "s02"}

    def share(rivals: float, seed: int) -> float:
        registrar = Registrar(tmp_path, Registering("over", min_distractors=8, max_distractors=8, rivals=rivals))
        registrar.know(embeddings)
        chosen = set(registrar.draw(["c1"], ["s00"], Chance(seed)).speakers)
        assert len(chosen) == 8 + ("s00" in chosen)
        return len(chosen & near) / 8

    assert {share(0.5, seed) for seed in range(30)} == {0.5}
    assert np.mean([share(0.0, seed) for seed in range(60)]) < 0.25
    with pytest.raises(ValueError, match="rivals: 1.5 is no share, 0 to 1"):
        Registering("over", rivals=1.5)


def test_modes_are_a_third_each(dump: Path) -> None:
    found = draws(dump, "mixed", ["M1-0005000-0005500"], ["A"], 600)
    none, over = sum(not f.speakers for f in found), sum(len(f.speakers) > 1 for f in found)
    assert 150 < none < 250 and 150 < over < 250
    assert draws(dump, "mixed", ["M1-0005000-0005500"], ["A"], 20) == found[:20]
    assert not any(f.speakers for f in draws(dump, "none", ["M1-0005000-0005500"], ["A"]))


def test_names_are_drawn_from_the_set_or_a_file(dump: Path, tmp_path: Path) -> None:
    """Anew for each clip, each speaker another one, and the same again for the same draw."""
    def names(**conf: object) -> list[dict]:
        return [dict(f.names) for f in draws(dump, "match", ["M2-0003000-0006000"], ["17", "C", "A"],
                                             shuffle_names=True, **conf)]

    (tmp_path / "names").write_text("Ann\n\n Bob\n张三\nDora\n", encoding="utf-8")
    for found, known in ((names(), {"A", "B", "C", "S17"}),
                         (names(names=str(tmp_path / "names")), {"Ann", "Bob", "张三", "Dora"})):
        assert all(set(each) == {"17", "C", "A"} and len(set(each.values())) == 3 for each in found)
        assert {name for each in found for name in each.values()} == known
        assert len({each["A"] for each in found}) == 4
    assert names(names=str(tmp_path / "names")) == names(names=str(tmp_path / "names"))
    (tmp_path / "names").write_text("Ann\nBob\n")
    with pytest.raises(UserError, match="names: 2 names for the 3 speakers registered with clip 'M2-0003000-0006000'"):
        names(names=str(tmp_path / "names"))


@pytest.mark.parametrize("text, message", [
    ("Ann\nＡＮＮ\n", "names:2: the name 'ＡＮＮ' is there twice; take one of them out"),
    ("Ann\nspk 1\n", "names:2: the name 'spk 1' holds ' '"),
    ("\n\n", "names: no name; write names there, one a line"),
    (None, "names: no such file; write names there, one a line"),
])
def test_a_file_that_is_no_list_of_names(dump: Path, tmp_path: Path, text: Optional[str], message: str) -> None:
    if text is not None:
        (tmp_path / "names").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Registrar(dump, Registering("match", shuffle_names=True, names=str(tmp_path / "names")))
    with pytest.raises(ValueError, match="drawn from with shuffle_names: true alone"):
        Registering("match", names="names")


def test_sources_of_a_mixture_are_not_enrolled_from(dump: Path) -> None:
    mixture = {"id": "mix1", "sources": [{"wav": "M2.wav", "utt": "u", "start": 20.0, "end": 24.0},
                                         {"wav": "elsewhere.wav", "utt": "v", "start": 0.0, "end": 1.0}]}
    (dump / "mixtures.jsonl").write_text(json.dumps(mixture) + "\n")
    for found in draws(dump, "match", ["mix1"], ["C"]):
        assert list(found.stretches[0]) == ["C-M2-0004000-0004500"]


def test_clip_of_an_unknown_session_is_enrolled_from_anywhere(dump: Path) -> None:
    assert {s for f in draws(dump, "match", ["X1-0000000-0004000"], ["B"]) for s in f.stretches[0]} == {
        "B-M1-0001000-0001500"}


def test_expected_number_is_the_mean(dump: Path) -> None:
    for mode in ("none", "match", "over", "mixed"):
        registrar = Registrar(dump, Registering(mode, min_distractors=1, max_distractors=2))
        drawn = [len(registrar.draw(["M1-0005000-0005500"], ["A"], Chance(i)).speakers) for i in range(400)]
        assert abs(np.mean(drawn) - registrar.expected(1)) < 0.2


def test_voices_are_means_of_the_stretches(dump: Path) -> None:
    found = draws(dump, "match", ["M1-0000000-0004000"], ["A"], 1)[0]
    embeddings = {"A-M1-0006000-0006500": np.array([1.0, 3.0]), "A-M2-0000000-0000500": np.array([3.0, 5.0])}
    assert voices(found, embeddings, 2).tolist() == [[2.0, 4.0]] and voices(found, None, 2).shape == (0, 2)


def test_bad_input(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty/enrolment: no such file; registration needs a pool"):
        Registrar(tmp_path / "empty", Registering("match"))
    for conf in ({"num_stretches": 0}, {"min_distractors": 3, "max_distractors": 2}):
        with pytest.raises(ValueError, match="expected 1 or more"):
            Registering("over", **conf)
    (dump / "mixtures.jsonl").write_text('{"id": "m"}\n')
    with pytest.raises(UserError, match="mixtures.jsonl:1: not a mixture"):
        Registrar(dump, Registering("match"))
