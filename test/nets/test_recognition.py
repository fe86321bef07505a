"""The recognition head: streams, joint loss against ESPnet's own parts, absent speakers, ESPnet's beam search."""

from itertools import permutations

import pytest
import torch

from espnet_mt_llm.nets.recognition import RecognitionHead

V, D, S = 9, 8, 3
BLOCKS = {"num_blocks": 1, "attention_heads": 2, "mlp_size": 16, "kernel": 3, "dropout": 0.0}
DECODER = {"num_blocks": 1, "attention_heads": 2, "linear_units": 16, "dropout_rate": 0.0,
           "positional_dropout_rate": 0.0}


def head_of(**conf) -> RecognitionHead:
    torch.manual_seed(1)
    return RecognitionHead(D, S, V, BLOCKS, DECODER, **conf)


def batch_of(seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 14, D, generator=generator).requires_grad_()
    targets = torch.randint(1, V - 1, (3, S, 4), generator=generator)
    return hidden, torch.tensor([14, 10, 8]), targets, torch.tensor([[4, 2, 1], [3, 1, 2], [1, 2, 2]])


def loss_of(head: RecognitionHead, hidden, lengths, targets, sizes, **more):
    return head.loss(*head(hidden, lengths), lengths, targets, sizes, **more)


def test_streams_have_their_own_weights_and_do_not_see_padding() -> None:
    head = head_of().eval()
    hidden, lengths, *_ = batch_of()
    streams, log_probs = head(hidden, lengths)
    assert streams.shape == (3, S, 14, D) and log_probs.shape == (3, S, 14, V)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, S, 14))
    assert not torch.allclose(streams[:, 0], streams[:, 1])
    alone, _ = head(hidden[1:2, :10], lengths[1:2])
    torch.testing.assert_close(streams[1:2, :, :10], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("normalise", [False, True])
def test_losses_are_those_of_espnet(smoothing: float, normalise: bool) -> None:
    from espnet.nets.pytorch_backend.transformer.add_sos_eos import add_sos_eos
    from espnet.nets.pytorch_backend.transformer.label_smoothing_loss import LabelSmoothingLoss

    head = head_of(label_smoothing=smoothing, normalise=normalise, ctc_weight=0.3)
    hidden, lengths, targets, sizes = batch_of()
    streams, log_probs = head(hidden, lengths)
    result = head.loss(streams, log_probs, lengths, targets, sizes)
    criterion = LabelSmoothingLoss(V, -1, smoothing)
    for b in range(3):
        expected = [0.0, 0.0]
        for j, stream in enumerate(result.order[b].tolist()):
            text, memory, frames = targets[b, j, : sizes[b, j]][None], streams[b, stream][None], lengths[b][None]
            ctc = head.ctc.loss_fn(head.ctc.ctc_lo(memory).transpose(0, 1), text, frames, sizes[b, j][None])
            inputs, outputs = add_sos_eos(text, V - 1, V - 1, -1)
            logits, _ = head.decoder(memory, frames, inputs, sizes[b, j][None] + 1)
            size = int(sizes[b, j])
            expected[0] += ctc.item() / (size if normalise else 1)
            expected[1] += criterion(logits, outputs).item() / (size + 1 if normalise else 1)
        ctc, attention = (e / S for e in expected)
        assert result.ctc[b].item() == pytest.approx(ctc, rel=1e-4)
        assert result.attention[b].item() == pytest.approx(attention, rel=1e-4)
        assert result.loss[b].item() == pytest.approx(0.3 * ctc + 0.7 * attention, rel=1e-4)


def test_label_order_changes_nothing_and_ctc_chooses_the_best() -> None:
    head = head_of()
    hidden, lengths, targets, sizes = batch_of()
    result = loss_of(head, hidden, lengths, targets, sizes)
    shuffle = torch.tensor([2, 0, 1])
    shuffled = loss_of(head, hidden, lengths, targets[:, shuffle], sizes[:, shuffle])
    for ours, other in zip(result[:3], shuffled[:3]):
        torch.testing.assert_close(ours, other)
    assert torch.equal(result.order[:, shuffle], shuffled.order)
    every = [loss_of(head, hidden, lengths, targets, sizes, order=torch.tensor([p] * 3)).ctc
             for p in permutations(range(S))]
    torch.testing.assert_close(result.ctc, torch.stack(every).min(0).values)


def test_without_pit_the_streams_are_in_onset_order() -> None:
    assert loss_of(head_of(pit=False), *batch_of()).order.tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
def test_the_loss_reaches_the_encoder_and_every_weight(ctc_weight: float) -> None:
    head = head_of(ctc_weight=ctc_weight)
    hidden, *rest = batch_of()
    result = loss_of(head, hidden, *rest)
    result.loss.sum().backward()
    assert (head.decoder is None) == (result.attention is None) == (ctc_weight == 1)
    assert torch.isfinite(hidden.grad).all() and (hidden.grad.flatten(1).abs().sum(1) > 0).all()
    assert hidden.grad[2, 8:].abs().sum() == 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("absent", ["silence", "ignore"])
def test_absent_speakers(absent: str) -> None:
    head = head_of(absent=absent)
    hidden, lengths, targets, sizes = batch_of()
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    streams, log_probs = (x.detach().requires_grad_() for x in head(hidden, lengths))
    result = head.loss(streams, log_probs, lengths, targets, sizes, present=present)
    other = targets.masked_fill(~present[..., None], 3)  # the text of an absent speaker is not read
    torch.testing.assert_close(head.loss(streams, log_probs, lengths, other, sizes, present=present).loss, result.loss)
    assert sorted(result.order[1].tolist()) == [0, 1, 2]
    result.loss.sum().backward()
    free = int(result.order[1, 1])
    for gradient in (streams.grad, log_probs.grad):
        trained = [bool(g.abs().sum() > 0) for g in gradient[1]]
        assert trained == [absent == "silence" or s != free for s in range(S)]
        assert bool(gradient[2].abs().sum() > 0) == (absent == "silence")
    if absent == "ignore":
        assert result.loss[2].item() == 0
    else:  # CTC of an empty text: a blank in every frame
        expected = -log_probs[1, free, :10, 0].sum() + sum(
            head.loss(streams, log_probs, lengths, targets, sizes, present=present.where(torch.eye(3)[j].bool(), False),
                      order=result.order).ctc[1] * 3
            + log_probs[1, [s for i, s in enumerate(result.order[1].tolist()) if i != j], :10, 0].sum()
            for j in (0, 2))
        torch.testing.assert_close(result.ctc[1], expected / 3)


def test_empty_texts_and_clips_without_frames_are_finite() -> None:
    head = head_of()
    hidden, _, targets, _ = batch_of()
    result = loss_of(head, hidden, torch.tensor([1, 0, 14]), targets, torch.tensor([[0, 0, 0], [0, 0, 0], [0, 4, 0]]))
    result.loss.sum().backward()
    assert all(torch.isfinite(part).all() for part in result[:3]) and torch.isfinite(hidden.grad).all()
    sizes = torch.zeros(3, S, dtype=torch.long)
    nothing = loss_of(head, hidden[:, :3], torch.tensor([3, 3, 3]), targets[..., :0], sizes)
    assert torch.isfinite(nothing.loss).all()


def test_the_prefix_is_given_and_not_learnt() -> None:
    hidden, lengths, targets, sizes = batch_of()
    with_prefix = head_of(prefix=[2, 3], sos=1, eos=V - 1, normalise=False, label_smoothing=0.0)
    streams, log_probs = with_prefix(hidden, lengths)
    result = with_prefix.loss(streams[:1, :], log_probs[:1], lengths[:1], targets[:1], sizes[:1])
    expected = 0.0
    for j, stream in enumerate(result.order[0].tolist()):
        text = targets[0, j, : sizes[0, j]].tolist()
        inputs = torch.tensor([[1, 2, 3, *text]])
        logits, _ = with_prefix.decoder(streams[0, stream][None], lengths[:1], inputs, torch.tensor([inputs.size(1)]))
        chosen = logits[0, 2:].log_softmax(-1).gather(1, torch.tensor([*text, V - 1])[:, None])
        expected -= chosen.sum().item()
    assert result.attention[0].item() == pytest.approx(expected / S, rel=1e-4)


def test_espnet_beam_search_takes_the_parts() -> None:
    from espnet.nets.beam_search import BeamSearch
    from espnet.nets.scorers.ctc import CTCPrefixScorer

    head = head_of().eval()
    hidden, lengths, *_ = batch_of()
    with torch.no_grad():
        streams, _ = head(hidden, lengths)
        search = BeamSearch({"ctc": CTCPrefixScorer(head.ctc, head.eos), "decoder": head.decoder},
                            {"ctc": 0.3, "decoder": 0.7}, 2, V, head.sos, head.eos)
        best = search(streams[0, 0])[0]
    assert best.yseq[0] == best.yseq[-1] == V - 1 and torch.isfinite(torch.as_tensor(best.score))


@pytest.mark.parametrize("conf, message", [
    ({"blocks": {"num_bloks": 1}}, "blocks: unknown key 'num_bloks'; did you mean 'num_blocks'"),
    ({"decoder": {"linear_unit": 8}}, "decoder: unknown key 'linear_unit'; did you mean 'linear_units'"),
    ({"ctc_weight": 1.5}, "ctc_weight"), ({"absent": "skip"}, "absent: 'skip'"), ({"label_smoothing": 1.0}, "smooth"),
])
def test_wrong_values_are_refused(conf: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecognitionHead(D, S, V, **conf)
