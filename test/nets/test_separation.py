"""Conv-TasNet: equal to espnet2's parts, exact gradients, independent of padding, consistent sums."""

import pytest
import torch
from torch.nn import functional as F

from espnet_mt_llm.nets.separation import Block, BlockFunction, ConvTasNet

SIZES = {"filters": 12, "kernel": 8, "stride": 4, "layers": 3, "stacks": 2, "bottleneck": 6, "hidden": 10}


def small(num_speakers: int = 2, **changes: object) -> ConvTasNet:
    torch.manual_seed(0)
    net = ConvTasNet(5, num_speakers, projection=7, **{**SIZES, **changes})
    for name, value in net.named_parameters():
        if any(part in name for part in ("slope", "gain", "bias")):
            torch.nn.init.normal_(value, 0.5, 0.5)
    return net


def espnet_parts(net: ConvTasNet, speakers: int) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    """Return espnet2's encoder, TCN (its first two layers unused) and decoder with the weights of ``net``."""
    from espnet2.enh.decoder.conv_decoder import ConvDecoder
    from espnet2.enh.encoder.conv_encoder import ConvEncoder
    from espnet2.enh.layers.tcn import TemporalConvNet

    s = SIZES
    encoder = ConvEncoder(s["filters"], s["kernel"], s["stride"])
    tcn = TemporalConvNet(s["filters"], s["bottleneck"], s["hidden"], 3, s["layers"], s["stacks"], speakers)
    decoder = ConvDecoder(s["filters"], s["kernel"], s["stride"])
    encoder.conv1d.weight.data = net.encoder.weight.data.unsqueeze(1).clone()
    decoder.convtrans1d.weight.data = net.decoder.weight.data.t().unsqueeze(1).clone()
    tcn.network[0].gamma.data = net.norm.weight.data.view(1, -1, 1).clone()
    tcn.network[0].beta.data = net.norm.bias.data.view(1, -1, 1).clone()
    tcn.network[3].weight.data = net.masks.weight.data.unsqueeze(-1).clone()
    for block, reference in zip(net.blocks, [layer for stack in tcn.network[2] for layer in stack]):
        w_in, slope_1, norm_1, separable = reference.net
        taps, slope_2, norm_2, w_out = separable.net
        for target, value in (
            (w_in.weight, block.w_in), (slope_1.weight, block.slope_1), (norm_1.gamma, block.gain_1),
            (norm_1.beta, block.bias_1), (taps.weight, block.taps), (slope_2.weight, block.slope_2),
            (norm_2.gamma, block.gain_2), (norm_2.beta, block.bias_2), (w_out.weight, block.w_out),
        ):
            target.data = value.data.reshape(target.shape).clone()
    return encoder, tcn, decoder


def test_equals_espnet_with_the_concatenation_written_out() -> None:
    net = small(3)
    encoder, tcn, decoder = espnet_parts(net, 3)
    speech = torch.randn(1, 61)
    ours, theirs = (torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    found = net(speech, ours, torch.tensor([61]))
    features, frames = encoder(F.pad(speech, (4, 7)), torch.tensor([72]))
    assert frames.item() == 17
    up = F.interpolate(net.projection(theirs).transpose(1, 2), size=17, mode="linear")
    hidden = net.bottleneck(torch.cat([tcn.network[0](features.transpose(1, 2)), up], dim=1).transpose(1, 2))
    hidden = hidden.transpose(1, 2)
    for stack in tcn.network[2]:
        for layer in stack:
            hidden = hidden + layer(hidden)
    masks = tcn.network[3](hidden).relu().view(1, 3, 12, 17)
    waves = [decoder(mask.transpose(1, 2) * features, torch.tensor([72]))[0] for mask in masks.unbind(1)]
    expected = torch.stack(waves, dim=1)[..., 4:65]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    first = tcn.network[2][0][0].net
    for parameter, reference in ((net.encoder.weight, encoder.conv1d.weight), (net.blocks[0].w_in, first[0].weight),
                                 (net.blocks[0].taps, first[3].net[0].weight),
                                 (net.blocks[0].slope_1, first[1].weight), (net.blocks[0].gain_1, first[2].gamma)):
        torch.testing.assert_close(parameter.grad, reference.grad.reshape(parameter.shape), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kernel, dilation, frames", [(3, 1, 7), (3, 4, 7), (5, 2, 9), (3, 8, 5), (1, 1, 1)])
def test_written_gradient_is_exact(kernel: int, dilation: int, frames: int, recompute: bool) -> None:
    torch.manual_seed(0)
    block = Block(3, 4, kernel, dilation).double()
    for i in (1, 2):
        for name in ("slope", "gain", "bias"):
            torch.nn.init.normal_(getattr(block, f"{name}_{i}"))
    values = (block.w_in, block.slope_1, block.gain_1, block.bias_1, block.taps, block.slope_2, block.gain_2,
              block.bias_2, block.w_out)
    hidden = torch.randn(3, frames, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(BlockFunction.apply, (hidden, *values, dilation, recompute))


def test_batch_equals_single_whatever_the_padding_holds() -> None:
    net = small()
    lengths, frames = torch.tensor([40, 97, 1, 6]), torch.tensor([2, 5, 1, 1])
    speech, encoded = torch.randn(4, 97), torch.randn(4, 5, 5)
    for i in range(4):
        speech[i, lengths[i] :] = encoded[i, frames[i] :] = float("nan")
    together = net(speech, encoded, lengths, frames)
    assert together.shape == (4, 2, 97)
    for i, (n, t) in enumerate(zip(lengths.tolist(), frames.tolist())):
        alone = net(speech[i : i + 1, :n], encoded[i : i + 1, :t], lengths[i : i + 1])
        torch.testing.assert_close(together[i, :, :n], alone[0])
        assert not together[i, :, n:].any()


@pytest.mark.parametrize("mask", ["relu", "sigmoid", "softmax"])
def test_estimates_sum_up_to_the_mixture(mask: str) -> None:
    speech, encoded, lengths = torch.randn(2, 50), torch.randn(2, 3, 5), torch.tensor([50, 33])
    plain, consistent = (small(3, mask=mask, sum_consistency=s)(speech, encoded, lengths) for s in (False, True))
    mixture = speech * (torch.arange(50) < lengths[:, None])
    torch.testing.assert_close(consistent.sum(1), mixture)
    missing = (mixture - plain.sum(1)) / 3
    assert missing.abs().max() > 1e-3
    torch.testing.assert_close(consistent, (plain + missing[:, None]) * (torch.arange(50) < lengths[:, None, None]))


def test_output_scales_with_the_input() -> None:
    net, speech, encoded, lengths = small(), torch.randn(1, 80), torch.randn(1, 3, 5), torch.tensor([80])
    torch.testing.assert_close(net(speech * 0.1, encoded, lengths), net(speech, encoded, lengths) * 0.1, rtol=1e-3,
                               atol=1e-5)


def test_all_learns_and_the_encoder_too() -> None:
    net, encoded = small(), torch.randn(2, 3, 5, requires_grad=True)
    net(torch.randn(2, 60), encoded, torch.tensor([60, 41])).square().sum().backward()
    assert [name for name, p in net.named_parameters() if not p.grad.abs().sum() > 0] == []
    assert (encoded.grad.abs().sum(dim=(1, 2)) > 0).all()


def test_two_tones_are_separated() -> None:
    torch.manual_seed(0)
    net = ConvTasNet(4, 2, filters=32, kernel=16, stride=8, layers=4, stacks=1, bottleneck=16, hidden=32, projection=4)
    time = torch.arange(800) / 8000
    tones = torch.stack([torch.sin(6.2832 * 440 * time), torch.sin(6.2832 * 1500 * time + 1)]).unsqueeze(0) * 0.1
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        estimates = net(tones.sum(1), torch.zeros(1, 2, 4), torch.tensor([800]))
        projected = (estimates * tones).sum(-1, keepdim=True) / tones.square().sum(-1, keepdim=True) * tones
        si_sdr = 10 * (projected.square().sum(-1) / (projected - estimates).square().sum(-1)).log10()
        optimizer.zero_grad()
        (-si_sdr.mean()).backward()
        optimizer.step()
    assert si_sdr.min() > 15


@pytest.mark.parametrize("conf, message", [
    ({"kernel": 10, "stride": 4}, "kernel 10 is not a multiple of stride 4"), ({"tcn_kernel": 4}, "tcn_kernel 4"),
    ({"mask": "rleu"}, "unknown mask 'rleu'; valid: relu, sigmoid, softmax"),
])
def test_sizes_that_do_not_fit(conf: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvTasNet(4, 2, **conf)
