"""The ume model: losses against explicit ones, ties, gradients, subsets of heads, numbers of talkers, odd clips."""

import itertools
import logging
from argparse import Namespace
from typing import Any, Optional

import pytest
import torch
from torch.nn import functional as F

from espnet_mt_llm.common import UserError
from espnet_mt_llm.models.ume import TASKS, UMEModel, frame_error
from espnet_mt_llm.nets.permutation import pairwise_si_sdr
from espnet_mt_llm.tasks.ume import UMETask

TOKENS = ["<blank>", "<unk>", "A", "B", "C", "<sos/eos>"]
BLOCKS = {"num_blocks": 1, "attention_heads": 2, "mlp_size": 32, "kernel": 3, "dropout": 0.0}
CONF = {
    "encoder_conf": {**BLOCKS, "output_size": 16, "num_blocks": 3},
    "recognition_conf": {"blocks": BLOCKS, "ctc_weight": 1.0},
    "separation_conf": {"filters": 16, "bottleneck": 8, "hidden": 16, "layers": 2, "stacks": 1, "projection": 8},
}
DECODER = {"blocks": BLOCKS, "ctc_weight": 0.3, "decoder": {
    "num_blocks": 1, "attention_heads": 2, "linear_units": 16, "dropout_rate": 0.0, "positional_dropout_rate": 0.0,
    "self_attention_dropout_rate": 0.0, "src_attention_dropout_rate": 0.0}}


def model_of(heads: tuple = TASKS, talkers: int = 2, seed: int = 0, recognition_conf: Optional[dict] = None,
             **model_conf: Any) -> UMEModel:
    torch.manual_seed(seed)
    conf = {**CONF, "recognition_conf": recognition_conf or CONF["recognition_conf"]}
    return UMETask.build_model(Namespace(
        token_list=TOKENS, token_type="word", bpemodel=None, encoder="e_branchformer", rate=16000, max_talkers=talkers,
        heads=list(heads), diarization_conf={}, rwse_conf={}, count_head_conf={"dropout": 0.0}, model_conf=model_conf,
        **conf))


def batch_of(counts: tuple = (2, 2, 2), talkers: int = 2, seed: int = 1, samples: int = 12000) -> dict:
    """Clips of noise with ``counts`` talkers of ``talkers``, two tokens each, no two alike; sources that add up."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.arange(talkers) < torch.tensor(counts)[:, None]
    sources = torch.randn(len(counts), samples, talkers, generator=generator) * there.unsqueeze(1)
    activity = (torch.rand(len(counts), samples // 640 + 2, talkers, generator=generator) < 0.5) & there.unsqueeze(1)
    lengths = torch.tensor([samples - 1500 * i for i in range(len(counts))])
    sources[torch.arange(samples) >= lengths[:, None]] = 0.0
    pairs = torch.stack([torch.randperm(9, generator=generator)[:talkers] for _ in counts])
    return {"speech": sources.sum(-1), "speech_lengths": lengths,
            "text": torch.stack([2 + pairs // 3, 2 + pairs % 3], dim=-1).flatten(1),
            "text_lengths": 2 * torch.tensor(counts), "talkers": torch.where(there, 2, -1),
            "activity": activity.float(), "sources": sources}


def stats_of(model: UMEModel, batch: dict) -> dict[str, float]:
    """Every statistic of a batch."""
    return {name: float(value) for name, value in model(**batch)[1].items()}


def relabelled(batch: dict, order: list[int]) -> dict:
    """The batch with its talkers in another order; all of them have two tokens."""
    text = batch["text"].view(len(batch["text"]), -1, 2)[:, order].flatten(1)
    return {**batch, "text": text, "activity": batch["activity"][..., order], "sources": batch["sources"][..., order],
            "talkers": batch["talkers"][:, order]}


def explicit_losses(model: UMEModel, batch: dict) -> dict[str, dict[tuple, list[float]]]:
    """Loss of every clip for every permutation (target k to estimate p[k]), with torch's own losses: task → p → (B)."""
    heard = model.hear(batch["speech"], batch["speech_lengths"])
    speakers, size = model.max_talkers, len(batch["speech"])
    out: dict[str, dict[tuple, list[float]]] = {task: {} for task in TASKS}
    for p in itertools.permutations(range(speakers)):
        rows: dict[str, list[float]] = {task: [] for task in TASKS}
        for b in range(size):
            frames, samples = int(heard.lengths[b]), int(batch["speech_lengths"][b])
            terms: dict[str, list[float]] = {task: [] for task in TASKS}
            for k, stream in enumerate(p):
                terms["diarization"].append(F.binary_cross_entropy_with_logits(
                    heard.activity[b, :frames, stream], batch["activity"][b, :frames, k]).item())
                estimate, source = heard.waves[b, stream, :samples], batch["sources"][b, :samples, k]
                target = (estimate @ source) / source.square().sum() * source
                ratio = 10 * torch.log10(target.square().sum() / (target - estimate).square().sum())
                terms["separation"].append(-min(ratio.item(), 30.0))
                terms["recognition"].append(F.ctc_loss(
                    heard.log_probs[b, stream, :frames], batch["text"][b, 2 * k : 2 * k + 2], torch.tensor(frames),
                    torch.tensor(2), reduction="sum").item() / 2)
            for task in TASKS:
                rows[task].append(sum(terms[task]) / speakers)
        for task in TASKS:
            out[task][p] = rows[task]
    return out


@pytest.mark.parametrize("tie", ["none", *TASKS])
def test_losses_are_the_explicit_ones_of_the_chosen_permutation(tie: str) -> None:
    model, batch = model_of(talkers=3, tie_permutation=tie).eval(), batch_of((3,) * 4, 3)
    found = stats_of(model, batch)
    with torch.no_grad():
        explicit = explicit_losses(model, batch)
    changed = []
    for task in TASKS:
        expected, free = [], []
        for b in range(4):
            leader = explicit[task if tie == "none" else tie]
            chosen = min(leader, key=lambda p: leader[p][b])
            expected.append(explicit[task][chosen][b])
            free.append(min(losses[b] for losses in explicit[task].values()))
        # The SI-SDR of what is orthogonal is bounded.
        assert found[f"loss_{task}"] == pytest.approx(sum(expected) / 4, rel=2e-3 if task == "separation" else 1e-4)
        changed.append(sum(expected) > sum(free) + 1e-4)
    # The clips are such that the tasks disagree; a tied one gives in, the leading one never does.
    assert changed == [tie not in ("none", task) for task in TASKS]
    assert found["loss"] == pytest.approx(0.33 * sum(found[f"loss_{task}"] for task in TASKS), rel=1e-5)


@pytest.mark.parametrize("tie", ["none", *TASKS])
def test_order_of_the_labels_changes_nothing(tie: str) -> None:
    model, batch = model_of(talkers=3, tie_permutation=tie, recognition_conf=DECODER).eval(), batch_of((3, 3), 3)
    expected = stats_of(model, batch)
    for order in itertools.permutations(range(3)):
        assert stats_of(model, relabelled(batch, list(order))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_labels_of_one_task_in_another_order(task: str) -> None:
    model, batch = model_of().eval(), batch_of()
    other = relabelled(batch, [1, 0])
    changed = {"diarization": ["activity"], "separation": ["sources"], "recognition": ["text", "talkers"]}[task]
    mixed = {**batch, **{name: other[name] for name in changed}}
    assert stats_of(model, mixed) == pytest.approx(stats_of(model, batch), rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_each_loss_alone_reaches_the_encoder_and_its_own_weights(task: str) -> None:
    model = model_of(recognition_conf=DECODER, weights={t: float(t == task) for t in TASKS})
    model(**batch_of())[0].backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    names = {name for name, _ in model.named_parameters()}
    # The bias of the attention keys cancels in the softmax; everything else must move.
    wanted = {n for n in names if n.startswith(("encoder.", f"heads.{task}."))}
    assert {n for n in wanted - moved if "linear_k.bias" not in n} == set()
    assert {n for n in moved if n.startswith("heads.")} == {n for n in moved if n.startswith(f"heads.{task}.")}
    row = model.rwse.logits.grad[TASKS.index(task)]
    assert (row != 0).all() and (model.rwse.logits.grad != 0).sum() == row.numel()


def test_one_hot_weights_double_the_last_layer() -> None:
    model, batch = model_of().eval(), batch_of()
    with torch.no_grad():
        model.rwse.logits[:] = torch.tensor([-1e4, -1e4, 1e4])
        layers, frames = model.encoder(batch["speech"], batch["speech_lengths"])
        for hidden in model.rwse(layers).values():
            torch.testing.assert_close(hidden, 2 * layers[-1])
        expected = model.heads["diarization"](2 * layers[-1], frames)
        torch.testing.assert_close(model.hear(batch["speech"], batch["speech_lengths"]).activity, expected)
    assert model.layer_weights() == {task: [0.0, 0.0, 1.0] for task in TASKS}


@pytest.mark.parametrize("samples", [1, 399, 640, 6400, 16000, 16001, 100003])
def test_encoder_frames_cover_the_clip(samples: int) -> None:
    model = model_of(("diarization",)).eval()
    frames = int(model.hear(torch.zeros(1, samples), torch.tensor([samples])).lengths)
    hop = round(model.encoder.frame_shift * 16000)
    assert hop == 640 and abs(frames * hop - samples) <= hop + 400  # a window of 25 ms ends before the clip does


@pytest.mark.parametrize("heads", [h for n in (1, 2) for h in itertools.combinations(TASKS, n)])
def test_fewer_heads_are_the_joint_model_without_the_others(heads: tuple) -> None:
    batch, joint = batch_of(), model_of(weights={"diarization": 0.5, "recognition": 2.0}).eval()
    part = model_of(heads, seed=5, weights={"diarization": 0.5, "recognition": 2.0}).eval()
    state = {name: value for name, value in joint.state_dict().items() if name in part.state_dict()}
    state["rwse.logits"] = joint.rwse.logits[[TASKS.index(head) for head in heads]]
    part.load_state_dict(state)
    whole, found = stats_of(joint, batch), stats_of(part, batch)
    assert {n for n in found if n.startswith("loss_")} - {"loss_ctc"} == {f"loss_{head}" for head in heads}
    for head in heads:
        assert found[f"loss_{head}"] == pytest.approx(whole[f"loss_{head}"], rel=1e-5)
    weights = {"diarization": 0.5, "separation": 0.33, "recognition": 2.0}
    assert found["loss"] == pytest.approx(sum(weights[h] * whole[f"loss_{h}"] for h in heads), rel=1e-5)


@pytest.mark.parametrize("tie", ["none", "separation"])
def test_nothing_is_learnt_about_separation_without_sources(tie: str) -> None:
    model, batch = model_of(tie_permutation=tie), {**batch_of(), "sources": None}
    loss, stats, _ = model(**batch)
    loss.backward()
    assert "loss_separation" not in stats and {"loss_diarization", "loss_recognition"} <= set(stats)
    assert all(p.grad is None for p in model.heads["separation"].parameters())
    assert float(loss) == pytest.approx(0.33 * float(stats["loss_diarization"] + stats["loss_recognition"]), rel=1e-5)


def test_separation_alone_without_sources_is_told() -> None:
    with pytest.raises(UserError, match="no clean signals"):
        model_of(("separation",))(**{**batch_of(), "sources": None})


def test_one_to_s_talkers_in_a_batch() -> None:
    batch = batch_of((1, 2, 3), 3)
    model = model_of(talkers=3, variable_speakers=True, count_weight=0.5)
    loss, stats, weight = model(**batch)
    loss.backward()
    assert weight.item() == 3 and {"loss_count", "acc_count"} <= set(stats)
    tasks = sum(0.33 * float(stats[f"loss_{task}"]) for task in TASKS)
    assert float(loss) == pytest.approx(tasks + 0.5 * float(stats["loss_count"]), rel=1e-5)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.count_head.parameters())


@pytest.mark.parametrize("absent", ["silence", "ignore"])
def test_absent_talkers_are_silent_streams(absent: str) -> None:
    """Of a clip with one of two talkers the other stream is silence in each task, or free in recognition."""
    batch = batch_of((1,))
    model = model_of(variable_speakers=True, recognition_conf={**CONF["recognition_conf"], "absent": absent}).eval()
    stats, heard = stats_of(model, batch), model.hear(batch["speech"], batch["speech_lengths"])
    frames = int(heard.lengths)
    diarization, recognition = [], []
    for talking in (0, 1):
        logits = heard.activity[0, :, [talking, 1 - talking]]
        diarization.append(F.binary_cross_entropy_with_logits(logits, batch["activity"][0, :frames]).item())
        own = F.ctc_loss(heard.log_probs[0, talking], batch["text"][0, :2], torch.tensor(frames), torch.tensor(2),
                         reduction="sum") / 2
        silence = -heard.log_probs[0, 1 - talking, :, 0].sum()
        recognition.append((own if absent == "ignore" else (own + silence) / 2).item())
    assert stats["loss_diarization"] == pytest.approx(min(diarization), rel=1e-4)
    assert stats["loss_recognition"] == pytest.approx(min(recognition), rel=1e-4)


def test_the_count_head_learns_and_is_heard() -> None:
    model, batch = model_of(("diarization",), 3, variable_speakers=True, count_weight=1.0), batch_of((1, 2, 3), 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch)[0].backward()
        optimizer.step()
    model.eval()
    counts = model.hear(batch["speech"], batch["speech_lengths"]).counts
    assert (counts.argmax(1) + 1).tolist() == [1, 2, 3] and stats_of(model, batch)["acc_count"] == 1.0


def test_fewer_talkers_than_the_model_has_are_told() -> None:
    batch = batch_of((2, 1))
    with pytest.raises(UserError, match=r"clip 'lonely' has fewer than 2 talkers.*variable_speakers: true"):
        model_of()(**batch, utt_id=["pair", "lonely"])


def test_weight_of_separation_grows_and_resumes() -> None:
    def weight(model: UMEModel) -> float:
        loss, stats, _ = model(**batch)
        rest = 0.33 * float(stats["loss_diarization"] + stats["loss_recognition"])
        return (float(loss) - rest) / float(stats["loss_separation"])

    batch, model = batch_of(), model_of(separation_warmup=4)
    assert [weight(model) for _ in range(3)] == pytest.approx([0, 0.33 / 4, 0.33 / 2], abs=1e-5)
    assert weight(model.eval()) == pytest.approx(0.33, abs=1e-5)  # models are compared by the whole loss
    again = model_of(separation_warmup=4, seed=9)
    again.load_state_dict(model.state_dict())
    assert [weight(again) for _ in range(3)] == pytest.approx([0.33 * 3 / 4, 0.33, 0.33], abs=1e-5)


def test_silent_reference_speaker_and_empty_text() -> None:
    batch = batch_of()
    batch["sources"][0, :, 1], batch["activity"][0, :, 1] = 0.0, 0.0
    batch["speech"] = batch["sources"].sum(-1)
    batch["talkers"][0] = torch.tensor([2, 0])
    model = model_of(recognition_conf=DECODER)
    loss, stats, _ = model(**batch)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())
    costs = pairwise_si_sdr(model.hear(batch["speech"], batch["speech_lengths"]).waves,
                            batch["sources"].transpose(1, 2), batch["speech_lengths"])
    best = [min(c[0, 0] + c[1, 1], c[1, 0] + c[0, 1]).item() / 2 for c in costs]
    assert float(stats["loss_separation"]) == pytest.approx(sum(best) / 3, rel=1e-4)


@pytest.mark.parametrize("samples", [1, 100, 401])
def test_clip_shorter_than_a_frame(samples: int) -> None:
    batch = batch_of((2, 2))
    batch["speech_lengths"][1] = samples
    model = model_of(recognition_conf=DECODER)
    loss, *_ = model(**batch)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())
    alone = {name: value[1:] for name, value in batch.items()}
    alone |= {name: alone[name][:, :samples] for name in ("speech", "sources")} | {"activity": alone["activity"][:, :2]}
    assert torch.isfinite(model(**alone)[0])


def test_clip_with_more_tokens_than_frames_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    batch, model = batch_of((2, 2)), model_of()
    batch["speech_lengths"][1] = 700
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.isfinite(model(**batch, utt_id=["good", "short"])[0])
    assert caplog.text.count("short") == 1 and "good" not in caplog.text


@pytest.mark.parametrize("heads", [TASKS, *((task,) for task in TASKS)])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_not_finite_clip_is_named_and_left_out(heads: tuple, broken: float, caplog: pytest.LogCaptureFixture) -> None:
    batch, model = batch_of(), model_of(heads, recognition_conf=DECODER, variable_speakers=True, separation_warmup=9)
    batch["speech"][1, 77] = broken
    kept = {name: value[[0, 2]] for name, value in batch.items()}
    with caplog.at_level(logging.WARNING):
        loss, stats, weight = model(**batch, utt_id=["a", "b", "c"])
    loss.backward()
    assert "not finite for b;" in caplog.text and weight.item() == 2 and int(model.steps) == 1
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.steps.zero_()
    assert float(model(**kept)[0]) == pytest.approx(float(loss), rel=1e-5)
    batch["speech"][:, 77] = broken
    with pytest.raises(UserError, match="a, b, c: the whole batch"):
        model(**batch, utt_id=["a", "b", "c"])


def test_not_finite_source_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    batch = batch_of()
    batch["sources"][2, 5, 0] = float("nan")
    loss, *_ = model_of()(**batch, utt_id=["a", "b", "c"])
    assert torch.isfinite(loss) and "not finite for c;" in caplog.text


def test_a_clip_is_heard_the_same_alone_and_in_a_batch() -> None:
    model, batch = model_of(talkers=3, variable_speakers=True, recognition_conf=DECODER).eval(), batch_of((3,) * 3, 3)
    lengths = torch.tensor([12000, 3333, 100])
    batch["speech"] += 5.0 * (torch.arange(12000) >= lengths[:, None])  # what lies beyond the end must not matter
    with torch.no_grad():
        together = model.hear(batch["speech"], lengths)
        for b, size in enumerate(lengths.tolist()):
            alone = model.hear(batch["speech"][b : b + 1, :size], lengths[b : b + 1])
            frames = int(alone.lengths)
            assert int(together.lengths[b]) == frames
            for name, axis, end in (("activity", 0, frames), ("waves", 1, size), ("streams", 1, frames),
                                    ("log_probs", 1, frames)):
                found = getattr(together, name)[b].narrow(axis, 0, end)
                torch.testing.assert_close(found, getattr(alone, name)[0], rtol=1e-4, atol=1e-5)
            assert not together.waves[b, :, size:].any()
            torch.testing.assert_close(together.counts[b], alone.counts[0], rtol=1e-4, atol=1e-5)


def test_only_the_heads_that_are_asked_for() -> None:
    model, batch = model_of().eval(), batch_of()
    heard = model.hear(batch["speech"], batch["speech_lengths"], ["recognition"])
    assert heard.activity is None and heard.waves is None and heard.counts is None and heard.log_probs is not None
    assert len(model.greedy(heard)) == 3 and all(len(clip) == 2 for clip in model.greedy(heard))


def test_frame_error_counts_missed_false_and_confused() -> None:
    true = torch.tensor([[[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [1, 1]]]).float()
    said = torch.tensor([[[1, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0, 0]]]).float()
    # missed 1, false alarm 1, false alarm 1, confusion 1; what lies beyond the length does not count
    logits = 2 * said - 1
    assert float(frame_error(logits, true, torch.tensor([5]), torch.tensor([[0, 1]]))) == pytest.approx(4 / 5)
    assert float(frame_error(logits.flip(-1), true, torch.tensor([5]), torch.tensor([[1, 0]]))) == pytest.approx(4 / 5)
    assert float(frame_error(logits, true, torch.tensor([1]), torch.tensor([[0, 1]]))) == 0.0


@pytest.mark.parametrize("conf, message", [
    ({"tie_permutation": "ctc"}, "tie_permutation: 'ctc' is none of: none, diarization, separation, recognition"),
    ({"weights": {"asr": 1.0}}, "weights: 'asr' is none of: diarization, separation, recognition"),
])
def test_wrong_values_are_refused(conf: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_of(**conf)


def test_learns_two_clips_by_heart() -> None:
    model, batch = model_of(weights={"recognition": 1.0}), batch_of((2, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = stats_of(model.eval(), batch)
    model.train()
    for _ in range(120):
        optimizer.zero_grad()
        model(**batch)[0].backward()
        optimizer.step()
    last = stats_of(model.eval(), batch)
    assert all(last[f"loss_{task}"] < first[f"loss_{task}"] for task in TASKS)
    assert last["frame_error"] < 0.1 and last["token_error"] == 0.0
