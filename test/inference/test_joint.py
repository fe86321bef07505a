"""Joint decoding: one order of speakers in all outputs, times, beam search, jobs and batches, what is written."""

import itertools
import json
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch
from toy_mixtures import BLOCKS, CONFIG, DECODER, make_clips, train

from espnet_mt_llm.bin import decode_ume, merge_decode, pack_model, score_decode
from espnet_mt_llm.common import UserError
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.rttm import read_rttm
from espnet_mt_llm.inference.joint import (
    JointConfig, JointDecoder, Spoken, audible, decode_joint, envelopes, match, said, spans_of, spread,
)
from espnet_mt_llm.models.ume import Heard
from espnet_mt_llm.nets.recognition import RecognitionHead

HOP, RATE = 640, 16000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, and a model trained on them for one epoch."""
    root = tmp_path_factory.mktemp("joint")
    clips = make_clips(root / "dump")
    train(root, "01", clips, recognition_conf={"blocks": BLOCKS, "ctc_weight": 0.5, "decoder": DECODER})
    return root


def run(root: Path, name: str, num_jobs: int = 1, step: str = "01", dump: str = "dump", **conf: Any) -> Path:
    """Decode and merge through the commands, and return the decode directory."""
    out = root / "exp" / "ume" / step / name / "set"
    (root / f"{name}.yaml").write_text(json.dumps(conf))
    for job in range(1, num_jobs + 1):
        decode_ume.main(["--model_dir", str(root / "exp/ume" / step), "--data_dir", str(root / dump), "--out_dir",
                         str(out), "--config", str(root / f"{name}.yaml"), "--job", str(job), "--num_jobs",
                         str(num_jobs)])
    merge_decode.main(["--out_dir", str(out), "--num_jobs", str(num_jobs)])
    return out


@pytest.mark.parametrize("conf, message", [
    ({"treshold": 0.5}, "unknown key 'treshold'; did you mean 'threshold'?"),
    ({"threshold": 1.5}, "threshold: 1.5; a number between 0 and 1 is expected"),
    ({"threshold": True}, "threshold: True"),
    ({"ctc_weight": -0.1}, "ctc_weight: -0.1; a number between 0 and 1"),
    ({"median": 4}, "median: 4; an odd number of frames is expected"),
    ({"median": 0}, "median: 0"),
    ({"beam_size": 0}, "beam_size: 0; a whole number of at least 1"),
    ({"batch_size": 2.5}, "batch_size: 2.5"),
    ({"write_audio": "yes"}, "write_audio: 'yes'; true or false is expected"),
    ({"write_activity": 1}, "write_activity: 1; true or false"),
    ({"device": "tpu9"}, "device: 'tpu9'"),
])
def test_bad_configuration(tmp_path: Path, conf: dict, message: str) -> None:
    (tmp_path / "d.yaml").write_text(json.dumps(conf))
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        JointConfig.load(tmp_path / "d.yaml")


def test_options_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("median: 3\nthreshold: 0.4\n")
    assert JointConfig.load(tmp_path / "d.yaml", median=5, threshold=None) == JointConfig(median=5, threshold=0.4)


def test_envelope_is_linear_in_decibels() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(4 * HOP) / RATE)
    gains = 10 ** (np.repeat([0, -10, -20, -60], HOP) / 20)
    found = envelopes(np.stack([tone * gains, 0.01 * tone * gains[::-1], 0 * tone]), 5, HOP)
    expected = [[1, 0.75, 0.5, 0, 0], [0, 0.5, 0.75, 1, 0], [0] * 5]  # the level does not count, silence is silence
    np.testing.assert_allclose(found.T, expected, atol=1e-6)
    assert envelopes(np.stack([tone]), 3, HOP).shape == (3, 1)  # more samples than frames


def test_spread_is_a_running_maximum() -> None:
    spikes = np.zeros((9, 2))
    spikes[4, 0], spikes[0, 1] = 0.7, 0.9
    assert spread(spikes, 2).T.tolist() == [[0, 0, 0.7, 0.7, 0.7, 0.7, 0.7, 0, 0], [0.9, 0.9, 0.9, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_match_finds_a_permutation(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first = generator.random((50, 4)) < 0.4
    order = generator.permutation(4)
    # Other scales and offsets, as of a probability and a level.
    second = 0.2 + 0.3 * first[:, order] + 0.05 * generator.standard_normal((50, 4))
    assert np.array_equal(order[match(first, second)], np.arange(4))


def test_match_of_silence_is_some_permutation() -> None:
    assert sorted(match(np.zeros((7, 3)), np.ones((7, 3)))) == [0, 1, 2]


def decoder_of(talkers: int = 3) -> JointDecoder:
    """A decoder without a model: what brings the outputs together needs none."""
    decoder = JointDecoder.__new__(JointDecoder)
    decoder.args, decoder.model = Namespace(frame_shift=0.04, rate=RATE), Namespace(max_talkers=talkers)
    return decoder


def heard_of(active: np.ndarray, orders: dict[str, np.ndarray], tokens: Optional[list] = None) -> Heard:
    """Heads that find ``active`` ``(T, S)``, each in its own order: column j of a head is the speaker ``order[j]``."""
    frames, speakers = active.shape
    generator = np.random.default_rng(7)
    activity = torch.tensor(np.where(active, 3.0, -3.0)[:, orders["activity"]]).unsqueeze(0)
    waves = np.repeat(active.T, HOP, axis=1) * generator.standard_normal((speakers, frames * HOP))
    waves = 10.0 ** -orders["waves"][:, None] * waves[orders["waves"]]
    log_probs = np.full((speakers, frames, 6), np.log(0.01))
    log_probs[:, :, 0] = np.log(0.95)
    for j, k in enumerate(orders["texts"]):
        log_probs[j, np.flatnonzero(active[:, k])[::6]] = np.log([0.05, 0.01, 0.91, 0.01, 0.01, 0.01])
    return Heard(torch.tensor([frames]), activity, torch.tensor(waves).unsqueeze(0), None,
                 torch.tensor(log_probs).unsqueeze(0), None)


def turns_of() -> np.ndarray:
    """Three speakers ``(T, S)``: much, less, least; partly together."""
    active = np.zeros((80, 3), dtype=bool)
    active[0:45, 0], active[30:60, 1], active[62:80, 2] = True, True, True
    return active


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("missing", [(), ("activity",), ("waves",), ("texts",)])
def test_a_speaker_has_one_number_in_all_outputs(seed: int, missing: tuple) -> None:
    generator = np.random.default_rng(seed)
    active = turns_of()
    orders = {name: generator.permutation(3) for name in ("activity", "waves", "texts")}
    heard = heard_of(active, orders)
    texts = [[f"text of {k}" for k in orders["texts"]]]
    heard = heard._replace(**{{"texts": "log_probs"}.get(name, name): None for name in missing})
    spoken = decoder_of()._clip(heard, None if "texts" in missing else texts, [2], 0, 80 * HOP)
    assert spoken.num_talkers == 2
    if spoken.activity is not None:
        assert np.array_equal(spoken.activity > 0.5, active)  # who speaks most comes first
    if spoken.waves is not None:
        assert [np.array_equal(wave.reshape(80, HOP).any(1), active[:, k]) for k, wave in enumerate(spoken.waves)] == [
            True] * 3
    if spoken.texts is not None:
        assert spoken.texts == ["text of 0", "text of 1", "text of 2"]


def test_all_talkers_without_a_count_head() -> None:
    orders = {name: np.arange(3) for name in ("activity", "waves", "texts")}
    assert decoder_of()._clip(heard_of(turns_of(), orders), [["a", "b", "c"]], None, 0, 80 * HOP).num_talkers == 3


def test_times_and_words_of_the_talkers_there_are() -> None:
    config = JointConfig(median=1)
    spoken = Spoken(2, turns_of().astype(float), None, ["one", "two", "three"])
    times = spans_of(spoken, 0.04, config, 3.2)
    assert times == [(0, 0.0, 1.8), (1, 1.2, 2.4)]
    assert said("c", spoken, [*times, (0, 2.0, 2.5)]) == [
        {"session_id": "c", "speaker": "0", "words": "one", "start_time": 0.0, "end_time": 2.5},
        {"session_id": "c", "speaker": "1", "words": "two", "start_time": 1.2, "end_time": 2.4}]
    assert said("c", spoken, times[1:])[0] == {"session_id": "c", "speaker": "0", "words": "one"}  # words, no activity
    assert spans_of(spoken, 0.04, config, 1.5)[0] == (0, 0.0, 1.5)
    assert spans_of(Spoken(2, None, None, ["a", "b"]), 0.04, config, 3.2) == []
    assert said("c", Spoken(2, turns_of(), None, None), times) == []


def test_separated_signals_are_as_loud_as_in_the_mixture() -> None:
    t = np.arange(16000) / 16000
    wave, other = np.sin(2 * np.pi * 100 * t), np.cos(2 * np.pi * 130 * t)
    np.testing.assert_allclose(audible(7 * wave, 0.5 * wave + 0.3 * other), 0.5 * wave, atol=1e-6)
    loud = audible(wave, 4 * wave)
    assert np.abs(loud).max() == pytest.approx(0.99, abs=1e-6) and loud.dtype == np.float32
    assert not audible(np.zeros(10), np.ones(10)).any() and audible(np.zeros(0), np.zeros(0)).shape == (0,)


@pytest.fixture(scope="module")
def reader() -> tuple[RecognitionHead, torch.Tensor, list]:
    """A recognition head that has learnt, not quite, what three streams ``(T, D)`` say; the streams and their texts."""
    torch.manual_seed(0)
    head = RecognitionHead(16, 1, 8, ctc_weight=0.5, label_smoothing=0.2, blocks=BLOCKS, decoder={
        **DECODER, "dropout_rate": 0.0, "positional_dropout_rate": 0.0})
    hidden, lengths = torch.randn(3, 10, 16), torch.tensor([10, 10, 10])
    targets, sizes = torch.tensor([[[2, 3, 0]], [[4, 0, 0]], [[3, 3, 2]]]), torch.tensor([[2], [1], [3]])
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        head.loss(*head(hidden, lengths), lengths, targets, sizes).loss.mean().backward()
        optimizer.step()
    head.eval()
    with torch.no_grad():
        return head, head(hidden, lengths)[0][:, 0], [[2, 3], [4], [3, 3, 2]]


def search_of(head: RecognitionHead, **conf: Any) -> JointDecoder:
    decoder = JointDecoder.__new__(JointDecoder)
    decoder.config = JointConfig(**conf)
    decoder.model = Namespace(heads={"recognition": head}, tokens=[str(i) for i in range(head.vocabulary_size)])
    decoder.search = decoder._search()
    return decoder


def scores_of(head: RecognitionHead, stream: torch.Tensor, texts: torch.Tensor, ctc_weight: float) -> torch.Tensor:
    """Log probability ``(N,)`` of each of ``texts`` ``(N, L)`` and its end: that of both decoders, weighted."""
    number, size = texts.shape
    frames = torch.full((number,), len(stream))
    inputs = torch.cat([torch.full((number, 1), head.sos), texts], dim=1)
    logits, _ = head.decoder(stream.expand(number, -1, -1), frames, inputs, torch.full((number,), size + 1))
    outputs = torch.cat([texts, torch.full((number, 1), head.eos)], dim=1)
    attention = logits.log_softmax(-1).gather(2, outputs.unsqueeze(2)).sum((1, 2))
    log_probs = head.ctc.ctc_lo(stream).log_softmax(-1).unsqueeze(1).expand(-1, number, -1)
    ctc = -torch.nn.functional.ctc_loss(log_probs, texts, frames, torch.full((number,), size), reduction="none")
    return (1 - ctc_weight) * attention + ctc_weight * ctc


def exhaustive(head: RecognitionHead, stream: torch.Tensor, ctc_weight: float) -> list[int]:
    """The best of all texts of up to four tokens."""
    best, found = -float("inf"), []
    for size in range(5):
        texts = torch.tensor(list(itertools.product(range(1, head.eos), repeat=size)), dtype=torch.long)
        score, index = scores_of(head, stream, texts, ctc_weight).max(0)
        if score > best:
            best, found = float(score), texts[index].tolist()
    return found


@pytest.mark.parametrize("ctc_weight", [0.1, 0.3, 0.7, 1.0])
def test_beam_search_finds_the_best_text(reader: tuple, ctc_weight: float) -> None:
    head, streams, texts = reader
    with torch.no_grad():
        assert [exhaustive(head, stream, ctc_weight) for stream in streams] == texts
        for beam in (2, 4, 20):  # 20: more than there are tokens
            decoder = search_of(head, beam_size=beam, ctc_weight=ctc_weight)
            assert [decoder._best(stream) for stream in streams] == texts


@pytest.mark.parametrize("ctc_weight, beam_size", [(0.1, 3), (0.3, 4), (0.3, 20), (1.0, 20)])
def test_scores_of_the_search_are_those_of_the_texts(reader: tuple, ctc_weight: float, beam_size: int) -> None:
    head, decoder = reader[0], search_of(reader[0], beam_size=beam_size, ctc_weight=ctc_weight)
    noise = torch.randn(6, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        decoder._best(noise)
        # Those that ended by themselves; the search also lists texts that are too long for CTC.
        found = [h for h in decoder.search(noise) if h.yseq[-2] != head.eos and float(h.score) > -1e6]
        for hypothesis in found:
            expected = scores_of(head, noise, hypothesis.yseq[None, 1:-1], ctc_weight)
            assert float(hypothesis.score) == pytest.approx(float(expected), rel=1e-4)
        assert found


def test_streams_of_one_frame_and_prefixes(reader: tuple) -> None:
    head, streams, texts = reader
    decoder = search_of(head, beam_size=4)
    with torch.no_grad():
        assert len(decoder._best(streams[0, :1])) <= 1
        head.prefix = [6]
        try:
            assert all(0 < i < head.eos for i in decoder._best(streams[0]))  # neither start nor prefix nor end
        finally:
            head.prefix = []


@pytest.mark.parametrize("conf", [{"beam_size": 1}, {"beam_size": 3}])
def test_batches_change_nothing(root: Path, conf: dict) -> None:
    found = [decode_joint(root / "exp/ume/01", root / "dump", root / "unused", JointConfig(
        batch_size=size, median=1, write_activity=True, **conf)) for size in (5, 1)]
    assert found[0][0] == found[1][0] and found[0][1] == found[1][1] and found[0][3]["rttm"] == found[1][3]["rttm"]
    for clip, active in found[0][3]["activity"].items():
        np.testing.assert_allclose(active.astype(float), found[1][3]["activity"][clip], atol=2e-3)
    assert len(found[0][0]) == 10 and not (root / "unused").exists()


def test_best_path_without_a_search(root: Path) -> None:
    decoder = JointDecoder(root / "exp/ume/01", JointConfig())
    assert decoder.search is None
    samples = read_audio(root / "dump/audio/c0.wav")[0]
    with torch.no_grad():
        heard = decoder.model.hear(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    texts = [decoder.tokenizer.decode(ids) for ids in decoder.model.greedy(heard)[0]]
    assert sorted(decoder([samples])[0].texts) == sorted(texts)


def test_jobs_add_up(root: Path) -> None:
    conf = {"batch_size": 1, "median": 3, "write_audio": True, "write_activity": True, "threshold": 0.45}
    one, many = run(root, "one", 1, **conf), run(root, "many", 3, **conf)
    for name in ("hyp.rttm", "hyp.seglst.json", "utt2num_spk"):
        assert (one / name).read_bytes() == (many / name).read_bytes()
    arrays = [np.load(out / "activity.npz") for out in (one, many)]
    assert sorted(arrays[0].files) == sorted(arrays[1].files) == [f"c{i}" for i in range(5)]
    assert all(np.array_equal(arrays[0][clip], arrays[1][clip]) for clip in arrays[0].files)
    assert arrays[0]["c0"].dtype == np.float16 and arrays[0]["c0"].shape[1] == 2
    files = [sorted(path.name for path in (out / "separated").iterdir()) for out in (one, many)]
    assert files[0] == files[1] == [f"c{i}-{k}.flac" for i in range(5) for k in (0, 1)]
    assert all((one / "separated" / f).read_bytes() == (many / "separated" / f).read_bytes() for f in files[0])
    record = json.loads((many / "decode.json").read_text())
    assert record["count"] == "forced:2" and record["frame_shift"] == pytest.approx(0.04) and record["median"] == 3
    assert record["heads"] == CONFIG["heads"] and record["sot_order"] == "onset"
    assert all(len(weights) == 1 and sum(weights) == pytest.approx(1) for weights in record["layer_weights"].values())
    sizes = [len(read_audio(root / f"dump/audio/c{i}.wav")[0]) for i in range(5)]
    assert record["audio_seconds"] == pytest.approx(sum(sizes) / RATE, abs=0.01)
    assert [len(read_audio(one / f"separated/c{i}-0.flac")[0]) for i in range(5)] == sizes
    for segment in read_rttm(one / "hyp.rttm"):
        clip = int(segment["session_id"][1:])
        assert segment["speaker"] in "01" and 0 <= segment["start_time"] < segment["end_time"] <= sizes[clip] / RATE


def test_decoding_again_leaves_nothing_of_the_last_time(root: Path) -> None:
    out = run(root, "again", write_audio=True, write_activity=True)
    assert (out / "activity.npz").exists() and len(list((out / "separated").iterdir())) == 10
    (out / "separated" / "c0-2.flac").write_bytes(b"of a model with three speakers")
    run(root, "again", write_audio=True)
    assert not (out / "activity.npz").exists() and len(list((out / "separated").iterdir())) == 10
    run(root, "again")
    assert not (out / "separated").exists() and (out / "hyp.rttm").exists()


def test_packed_model_decodes_the_same(root: Path, tmp_path: Path) -> None:
    pack_model.main(["--model_dir", str(root / "exp/ume/01"), "--out", str(tmp_path / "model.zip")])
    zipfile.ZipFile(tmp_path / "model.zip").extractall(tmp_path / "model")
    here, there = (decode_joint(model, root / "dump", tmp_path, JointConfig(median=1))
                   for model in (root / "exp/ume/01", tmp_path / "model"))
    assert here[0] == there[0] and here[3] == there[3]


def test_decoded_is_scored(root: Path, module: Any) -> None:
    module("pyannote.metrics")
    module("pystoi")
    out = run(root, "scored", 2, write_audio=True, write_activity=True, median=1)
    score_decode.main(["--ref", str(root / "dump"), "--hyp", str(out), "--sweep_diarization", "true"])
    score = json.loads((out / "score.json").read_text())
    assert [row["collar"] for row in score["diarization"]] == [0.0, 0.25]
    assert 0 <= score["diarization"][0]["der"] and score["diarization"][0]["trivial"]["der"] > 0
    assert isinstance(score["separation"]["si_sdr_improvement"], float) and score["diarization_sweep"]
    assert score["clips"] == 5 and not score["missing_hypotheses"] and not score.get("warnings")


@pytest.mark.parametrize("head, files", [
    ("diarization", {"hyp.rttm", "activity.npz"}), ("recognition", set()), ("separation", {"separated"}),
])
def test_single_task_models(root: Path, head: str, files: set) -> None:
    train(root, head, root / "dump", heads=[head])
    out = run(root, "single", step=head, write_audio=True, write_activity=True)
    optional = {path.name for path in out.iterdir()} - {"hyp.seglst.json", "utt2num_spk", "decode.json", "parts"}
    segments = json.loads((out / "hyp.seglst.json").read_text())
    assert optional == files and len(segments) == (10 if head == "recognition" else 0)
    assert all("start_time" not in segment for segment in segments)


def test_separation_that_is_not_written_is_told(root: Path) -> None:
    train(root, "mute", root / "dump", heads=["separation"])
    with pytest.raises(UserError, match="separates and does nothing else; set write_audio: true"):
        JointDecoder(root / "exp/ume/mute", JointConfig())


def test_talkers_are_counted_by_the_head(root: Path) -> None:
    make_clips(root / "mixed", (1, 2, 1, 2))
    train(root, "counting", root / "mixed", model_conf={"variable_speakers": True, "count_weight": 1.0}, max_epoch=8)
    out = run(root, "counted", step="counting", dump="mixed", write_audio=True)
    counts = dict(line.split() for line in (out / "utt2num_spk").read_text().splitlines())
    segments = json.loads((out / "hyp.seglst.json").read_text())
    for clip, count in counts.items():
        assert sum(s["session_id"] == clip for s in segments) == int(count)
        assert len(list((out / "separated").glob(f"{clip}-*.flac"))) == int(count)
    assert all(int(s["speaker"]) < int(counts[s["session_id"]]) for s in read_rttm(out / "hyp.rttm"))
    assert json.loads((out / "decode.json").read_text())["count"] == "head"
