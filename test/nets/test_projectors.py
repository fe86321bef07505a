"""Projectors: shapes and rates, formulas, padding that never reaches a valid frame."""

import pytest
import torch

from espnet_mt_llm.nets.projectors import PROJECTORS, GLUProjector, MLPAdapter, TransformerProjector

D, H = 8, 6
CONFS = [("mlp", {}, 1), ("mlp", {"hidden": 5}, 1), ("transformer", {"heads": 2}, 2),
         ("transformer", {"heads": 4, "stride": 4, "num_layers": 1, "feed_forward": 12}, 4),
         ("transformer", {"heads": 2, "stride": 1}, 1), ("glu", {}, 8), ("glu", {"strides": [2, 3]}, 6)]


def projector_of(name: str, conf: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    return PROJECTORS[name](D, H, **conf).eval()


@pytest.mark.parametrize("name, conf, stride", CONFS)
def test_a_clip_in_a_batch_is_as_alone(name: str, conf: dict, stride: int) -> None:
    projector = projector_of(name, conf)
    frames, lengths = torch.randn(5, 29, D) * 3, torch.tensor([29, 28, 13, 2, 1])
    output, sizes = projector(frames, lengths)
    assert projector.stride == stride and projector.output_size == H
    assert output.shape == (5, projector.length(29), H)
    assert sizes.tolist() == [projector.length(n) for n in lengths.tolist()] == [-(-n // stride) for n in lengths]
    for row, n, size in zip(range(5), lengths.tolist(), sizes.tolist()):
        alone, _ = projector(frames[row: row + 1, :n], lengths[row: row + 1])
        torch.testing.assert_close(output[row, :size], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name, conf, stride", CONFS)
def test_padding_has_no_gradient_and_every_weight_has_one(name: str, conf: dict, stride: int) -> None:
    projector = projector_of(name, conf).train()
    frames, lengths = torch.randn(2, 16, D, requires_grad=True), torch.tensor([16, 8])
    output, sizes = projector(frames, lengths)
    sum((output[row, :size] * torch.randn(size, H)).sum() for row, size in enumerate(sizes.tolist())).backward()
    assert frames.grad[1, 8:].abs().sum() == 0 and (frames.grad[1, :8].abs().sum(1) > 0).any()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in projector.parameters())


@pytest.mark.parametrize("name, conf, stride", CONFS)
def test_a_clip_without_frames_is_finite(name: str, conf: dict, stride: int) -> None:
    output, sizes = projector_of(name, conf)(torch.randn(2, 9, D), torch.tensor([9, 0]))
    assert torch.isfinite(output).all() and sizes[1] == 0 == projector_of(name, conf).length(0)


def test_formula_of_the_adapter() -> None:
    adapter = MLPAdapter(D, H)
    first, last, norm = adapter.layers[0], adapter.layers[2], adapter.layers[3]
    frames = torch.randn(1, 3, D)
    hidden = frames @ first.weight.T + first.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2 ** 0.5))
    hidden = hidden @ last.weight.T + last.bias
    expected = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(adapter(frames, torch.tensor([3]))[0], expected * norm.weight + norm.bias)


def test_formula_of_gated_convolutions() -> None:
    projector = GLUProjector(D, H, strides=[2])
    convolution = projector.convolutions[0]
    frames = torch.randn(1, 5, D)
    output, _ = projector(frames, torch.tensor([5]))
    around = torch.cat([torch.zeros(1, D), frames[0], torch.zeros(1, D)])
    for t in range(3):
        window = around[2 * t: 2 * t + 3]  # centred on frame 2 t
        both = torch.einsum("oik,ki->o", convolution.weight, window) + convolution.bias
        expected = projector.output(both[:D] * torch.sigmoid(both[D:]))
        torch.testing.assert_close(output[0, t], expected, atol=1e-5, rtol=1e-4)


def test_the_rate_of_the_paper() -> None:
    projector = TransformerProjector(D, H)  # 25 Hz to 12.5 Hz: 50 s are about 625 tokens
    assert projector.length(25 * 50) == 625 and len(projector.transformer.layers) == 2


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="heads: 3"):
        TransformerProjector(D, H, heads=3)
    with pytest.raises(ValueError, match="stride: 0"):
        TransformerProjector(D, H, stride=0)
