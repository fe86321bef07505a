"""From a clip to training arrays; batches; audio readers."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.serialisation import Order
from espnet_mt_llm.text.token_list import Tokenizer
from espnet_mt_llm.train.collate import pad_batch
from espnet_mt_llm.train.data_types import AudioReader
from espnet_mt_llm.train.preprocess import JointTargets, TalkerTexts, as_samples, change_speed, frame_labels

TOKENIZER = Tokenizer(["<blank>", "<unk>", "GO", "ON", "<sos/eos>"], "word")


def segment(spk: str, start: float, text: str) -> dict:
    return {"spk": spk, "start": start, "end": start + 1.0, "text": text}


def test_talkers_in_onset_order_with_all_that_they_say() -> None:
    segments = [segment("B", 0.2, "on"), segment("A", 0.5, "go"), segment("B", 2.0, "go, on!")]
    prepared = TalkerTexts(TOKENIZER, "en_libri", 3)(
        "c", {"speech": np.zeros(10, np.float32), "supervision": json.dumps(segments)})
    assert prepared["text"].tolist() == [3, 2, 3, 2] and prepared["talkers"].tolist() == [3, 1, -1]


@pytest.mark.parametrize("talkers, message", [(0, "has 0 talkers"), (3, "has 3 talkers")])
def test_number_of_talkers_is_checked(talkers: int, message: str) -> None:
    segments = [segment(str(k), k, "go") for k in range(talkers)]
    with pytest.raises(UserError, match=f"'c1' {message}"):
        TalkerTexts(TOKENIZER, "none", 2)("c1", {"speech": np.zeros(9, np.float32),
                                                 "supervision": json.dumps(segments)})


def test_samples_of_every_reader() -> None:
    ints = np.array([16384, -32768], np.int16)
    assert as_samples(ints, 16000, "c").tolist() == [0.5, -1.0]
    assert as_samples((16000, ints), 16000, "c").tolist() == as_samples((ints, 16000), 16000, "c").tolist()
    for speech, message in (((8000, ints), "has 8000 Hz"), (np.zeros((5, 2)), "has 2 channels"),
                            (np.zeros(0), "no samples")):
        with pytest.raises(UserError, match=message):
            as_samples(speech, 16000, "c")


def test_speed_moves_a_tone_by_its_factor() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(16000) / 16000).astype(np.float32)
    for factor in (0.9, 1.1):
        fast = change_speed(tone, factor)
        assert len(fast) == pytest.approx(16000 / factor, abs=2) and fast.dtype == np.float32
        assert np.abs(np.fft.rfft(fast)).argmax() * 16000 / len(fast) == pytest.approx(500 * factor, abs=2)


def test_speed_is_changed_while_training_only() -> None:
    clip = {"speech": np.ones(1000, np.float32), "supervision": json.dumps([segment("A", 0, "go")])}
    lengths = {train: len(TalkerTexts(TOKENIZER, "none", 1, speed_factors=[1.25], train=train)("c", clip)["speech"])
               for train in (True, False)}
    assert lengths[False] == 1000 and lengths[True] == pytest.approx(800, abs=1)


MILLISECONDS = st.integers(0, 500).filter(lambda ms: ms % 40 != 20)  # not in the very middle of a frame


@given(spans=st.lists(st.tuples(st.sampled_from("AB"), MILLISECONDS, MILLISECONDS), max_size=5))
def test_a_frame_belongs_to_what_is_said_in_its_middle(spans: list) -> None:
    spans = [(speaker, min(a, b), max(a, b)) for speaker, a, b in spans]
    segments = [{"speaker": speaker, "start_time": a / 1000, "end_time": b / 1000} for speaker, a, b in spans]
    labels = frame_labels(segments, ["A", "B"], 9, 0.04)
    for t in range(9):
        said = [any(s == speaker and a <= 40 * t + 20 < b for s, a, b in spans) for speaker in "AB"]
        assert labels[t].tolist() == said


def test_segments_of_no_length_and_beyond_the_clip() -> None:
    spans = [("A", 0.1, 0.1), ("A", -0.2, -0.1), ("B", -0.1, 0.05), ("B", 0.15, 9.0), ("C", 7.0, 9.0)]
    segments = [{"speaker": speaker, "start_time": a, "end_time": b} for speaker, a, b in spans]
    labels = frame_labels(segments, ["A", "B", "C"], 5, 0.04)
    assert labels.T.tolist() == [[0] * 5, [1, 0, 0, 0, 1], [0] * 5]


def joint(talkers: int = 3, **conf: object) -> JointTargets:
    return JointTargets(TOKENIZER, "en_libri", talkers, frame_shift=0.04, **conf)


def joint_clip(samples: int = 16000) -> dict:
    """B begins before A; the reader gives the signals of A and B in this order."""
    segments = [{"spk": "A", "start": 0.4, "end": 0.8, "text": "go"}, {"spk": "B", "start": 0.0, "end": 0.6,
                                                                       "text": "on on"}]
    parts = np.zeros((samples, 2), np.float32)
    parts[6400:12800, 0], parts[:9600, 1] = 1.0, 2.0
    return {"speech": parts.sum(1), "supervision": json.dumps(segments), "sources": (16000, parts)}


def test_targets_of_all_tasks_are_in_one_order() -> None:
    found = joint()("c", joint_clip())
    assert found["text"].tolist() == [3, 3, 2] and found["talkers"].tolist() == [2, 1, -1]
    assert found["activity"].shape == (26, 3) and found["sources"].shape == (16000, 3)
    assert found["activity"].sum(0).tolist() == [15, 10, 0] and found["activity"][10:20, 1].all()
    assert found["sources"].max(0).tolist() == [2, 1, 0] and found["sources"].dtype == np.float32
    assert np.array_equal(found["sources"].sum(1), found["speech"])


def test_targets_without_clean_signals() -> None:
    clip = joint_clip()
    del clip["sources"]
    assert set(joint()("c", clip)) == {"speech", "text", "talkers", "activity"}


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_all_targets_alike(factor: float) -> None:
    found = joint(speed_factors=[factor], train=True)("c", joint_clip())
    size = len(found["speech"])
    assert size == pytest.approx(16000 / factor, abs=2) and len(found["sources"]) == size
    np.testing.assert_allclose(found["sources"].sum(1), found["speech"], atol=1e-5)
    # Who is loud in the middle of a frame speaks in it.
    middles = np.arange(320, size, 640)
    assert np.array_equal(found["activity"][: len(middles)] > 0, found["sources"][middles] > 0)


def test_labels_reach_as_far_as_any_encoder_counts() -> None:
    for samples in (1, 639, 640, 641, 16000):
        clip = joint_clip(16000)
        clip["speech"], clip["sources"] = clip["speech"][:samples], (16000, clip["sources"][1][:samples])
        assert len(joint()("c", clip)["activity"]) == -(-samples // 640) + 1


def test_signals_and_supervision_that_disagree() -> None:
    clip = joint_clip()
    clip["sources"] = (16000, np.zeros((16000, 3), np.float32))
    with pytest.raises(UserError, match="'c' has 2 talkers in its supervision and 3 in its manifest"):
        joint()("c", clip)


def test_a_stream_is_a_talker_not_an_utterance() -> None:
    with pytest.raises(UserError, match="order_conf: unit 'utterance'"):
        joint(order=Order(unit="utterance"))


def test_batch_is_padded_with_zeros() -> None:
    names, batch = pad_batch([("a", {"x": np.array([1.0, 2.0])}), ("b", {"x": np.array([3.0])})])
    assert names == ["a", "b"] and batch["x"].tolist() == [[1, 2], [3, 0]]
    assert batch["x_lengths"].tolist() == [2, 1] and batch["x_lengths"].dtype == torch.long


def test_audio_reader_reads_files_and_pipes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0, 8192], np.int16), 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\nb cat {tmp_path}/a.wav |\n")
    reader = AudioReader(tmp_path / "wav.scp")
    assert list(reader) == ["a", "b"] and len(reader) == 2
    for key in reader:
        rate, samples = reader[key]
        assert rate == 16000 and samples.tolist() == [0, 0.25]
