"""From a clip to training arrays; batches; audio readers."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.token_list import Tokenizer
from espnet_mt_llm.train.collate import pad_batch
from espnet_mt_llm.train.data_types import AudioReader
from espnet_mt_llm.train.preprocess import TalkerTexts, as_samples, change_speed

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
