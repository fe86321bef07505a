"""The sctc model: routing, onset order, gradient flow, batches, losses that are not finite."""

import logging
from argparse import Namespace

import pytest
import torch

from espnet_mt_llm.common import UserError
from espnet_mt_llm.models.sctc import SCTCModel
from espnet_mt_llm.tasks.sctc import SCTCTask

TOKENS = ["<blank>", "<unk>", "A", "B", "C", "<sos/eos>"]


ENCODER = {"output_size": 32, "num_blocks": 1, "attention_heads": 2, "mlp_size": 64, "kernel": 7, "dropout": 0.0}


def arguments(encoder: str, encoder_conf: dict, **model_conf) -> Namespace:
    return Namespace(
        token_list=TOKENS, token_type="word", bpemodel=None, encoder=encoder, rate=16000, max_talkers=3,
        encoder_conf=encoder_conf,
        branch_conf={"num_blocks": 1, "attention_heads": 2, "mlp_size": 64, "kernel": 7, "dropout": 0.0},
        separator_conf={"hidden_size": 32, "num_layers": 1}, count_head_conf={"dropout": 0.0}, model_conf=model_conf,
    )


def model_of(**model_conf) -> SCTCModel:
    torch.manual_seed(0)
    return SCTCTask.build_model(arguments("e_branchformer", ENCODER, **model_conf))


def batch_of(counts: list[int]) -> dict:
    generator = torch.Generator().manual_seed(1)
    talkers = torch.tensor([[2] * k + [-1] * (3 - k) for k in counts])
    text = torch.randint(2, 5, (len(counts), 6), generator=generator)
    return {"speech": torch.randn(len(counts), 16000, generator=generator),
            "speech_lengths": torch.tensor([16000 - 1500 * i for i in range(len(counts))]),
            "text": text, "text_lengths": torch.tensor([2 * k for k in counts]), "talkers": talkers}


def test_each_clip_trains_the_branch_of_its_count() -> None:
    model = model_of(count_weight=0.0)
    loss, stats, weight = model(**batch_of([2, 2]))
    loss.backward()
    used = [any(p.grad is not None and p.grad.abs().sum() > 0 for p in b.parameters()) for b in model.branches]
    assert used == [False, True, False] and weight.item() == 2 and "loss_ctc_2" in stats
    assert model.encoder.blocks.encoder.embed[0].weight.grad.abs().sum() > 0


def test_every_parameter_learns_from_a_mixed_batch() -> None:
    model = model_of()
    model(**batch_of([1, 2, 3]))[0].backward()
    # The bias of the attention keys cancels in the softmax; everything else must move.
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [n for n in still if "linear_k.bias" not in n] == []


def test_a_frozen_layer_of_another_encoder() -> None:
    sizes = {"output_size": 32, "attention_heads": 2, "linear_units": 64, "num_blocks": 2, "tp_blocks": 1}
    args = arguments("sensevoice", {"config": {"encoder_conf": sizes}, "layers": [2], "freeze_layers": -1})
    model = SCTCTask.build_model(args)
    # What config.yaml says builds the same model again.
    assert args.encoder_conf["layers"] == [2] and args.encoder_conf["config"]["frontend_conf"]["lfr_n"] == 6
    SCTCTask.build_model(args).load_state_dict(model.state_dict())
    model.train()(**batch_of([1, 2, 3]))[0].backward()
    assert all(p.grad is None for p in model.encoder.parameters()) and not model.encoder.encoder.training
    assert all(p.grad is not None for p in model.branches.parameters())


def test_detached_count_head_leaves_the_encoder_alone() -> None:
    model = model_of(ctc_weight=0.0, detach_count=True)
    model(**batch_of([1, 2, 3]))[0].backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.encoder.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.count_head.parameters())


def test_loss_of_a_batch_is_the_mean_over_clips() -> None:
    model = model_of()
    model.eval()
    batch = batch_of([2, 1, 3])
    whole = model(**batch)[0].item()
    single = []
    for i in range(3):
        n = int(batch["speech_lengths"][i])
        one = {k: v[i : i + 1] for k, v in batch.items()}
        single.append(model(**{**one, "speech": one["speech"][:, :n]})[0].item())
    assert whole == pytest.approx(sum(single) / 3, rel=1e-4)


def test_onset_order_is_fixed_and_pit_is_not() -> None:
    batch = batch_of([2])
    swapped = {**batch, "text": batch["text"][:, [2, 3, 0, 1, 4, 5]]}
    for pit, same in ((False, False), (True, True)):
        model = model_of(pit=pit, count_weight=0.0).eval()
        a, b = model(**batch)[0].item(), model(**swapped)[0].item()
        assert (abs(a - b) < 1e-5) is same


def test_transcribes_a_batch_as_clip_by_clip() -> None:
    model = model_of().eval()
    batch = batch_of([1, 2, 3, 2])
    speech, lengths = batch["speech"], batch["speech_lengths"]
    for counts in (None, torch.tensor([3, 1, 2, 2])):
        texts, predicted = model.transcribe(speech, lengths, counts)
        for i, n in enumerate(lengths.tolist()):
            given = None if counts is None else counts[i : i + 1]
            one, head = model.transcribe(speech[i : i + 1, :n], lengths[i : i + 1], given)
            assert one[0] == texts[i] and head.item() == predicted[i]
            assert len(texts[i]) == (predicted[i] if counts is None else counts[i])


def test_not_finite_clip_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of()
    batch = batch_of([1, 2])
    batch["speech"][1] = float("nan")
    with caplog.at_level(logging.WARNING):
        loss, *_ = model(**batch, utt_id=["good", "broken"])
    assert torch.isfinite(loss) and "broken" in caplog.text and "good" not in caplog.text
    batch["speech"][:] = float("nan")
    with pytest.raises(UserError, match="good, broken"):
        model(**batch, utt_id=["good", "broken"])


def test_not_finite_clip_leaves_finite_gradients() -> None:
    model = model_of()
    batch = batch_of([1, 2])
    batch["speech"][1] = float("nan")
    model(**batch, utt_id=["good", "broken"])[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_learns_three_clips_by_heart() -> None:
    model = model_of()
    batch = batch_of([1, 2, 3])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = model(**batch)[0].item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**batch)[0]
        loss.backward()
        optimizer.step()
    model.eval()
    texts, predicted = model.transcribe(batch["speech"], batch["speech_lengths"])
    assert loss.item() < 0.3 * first and predicted.tolist() == [1, 2, 3]


def test_clip_with_more_tokens_than_frames_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    model, batch = model_of(), batch_of([1, 1])
    batch["speech_lengths"][1] = 700
    batch["talkers"][:, 0] = 4
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.isfinite(model(**batch, utt_id=["good", "short"])[0])
    assert caplog.text.count("short") == 1 and "good" not in caplog.text
