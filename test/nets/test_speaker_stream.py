"""The speaker stream: frames centred on the semantic ones, cropped or filled, padding without influence."""

import pytest
import torch

from espnet_mt_llm.nets.speaker_stream import SpeakerStream


def test_frames_are_centred_cropped_and_filled() -> None:
    stream = SpeakerStream(1, 1, ratio=3)
    with torch.no_grad():
        stream.convolution.weight.copy_(torch.tensor([[[0.0, 1.0, 0.0]]]))  # the frame in the middle
        stream.convolution.bias.zero_()
    frames = torch.arange(1.0, 13.0)[None, :, None].repeat(3, 1, 1)
    output = stream(frames, torch.tensor([12, 12, 7]), torch.tensor([6, 3, 5]))[..., 0]
    assert output.tolist() == [[1, 4, 7, 10, 10, 10], [1, 4, 7, 0, 0, 0], [1, 4, 7, 7, 7, 0]]


@pytest.mark.parametrize("ratio, expected", [
    (0.75, [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12, 12]),  # 60 ms of SenseVoice, 80 ms of ERes2NetV2
    (2.5, [1, 4, 6, 9, 11]),
])
def test_frames_of_another_rate_are_the_nearest(ratio: float, expected: list) -> None:
    stream = SpeakerStream(1, 1, ratio)
    with torch.no_grad():
        stream.convolution.weight.copy_(torch.tensor([[[0.0, 1.0, 0.0]]]))
        stream.convolution.bias.zero_()
    sizes = torch.tensor([12]), torch.tensor([len(expected)])
    assert stream(torch.arange(1.0, 13.0)[None, :, None], *sizes)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("ratio", [0.75, 1, 2.5, 3, 6])
def test_a_clip_in_a_batch_is_as_alone(ratio: float) -> None:
    torch.manual_seed(0)
    stream = SpeakerStream(5, 4, ratio)
    frames, lengths = torch.randn(3, 40, 5, requires_grad=True), torch.tensor([40, 31, 2])
    sizes = (lengths / ratio).ceil().long() + torch.tensor([1, -1, 0])
    output = stream(frames, lengths, sizes)
    assert output.shape == (3, int(sizes.max()), 4)
    for b, (n, size) in enumerate(zip(lengths.tolist(), sizes.tolist())):
        alone = stream(frames[b: b + 1, :n], lengths[b: b + 1], sizes[b: b + 1])
        torch.testing.assert_close(output[b, :size], alone[0], atol=1e-5, rtol=1e-4)
        assert not output[b, size:].any()
    output.sum().backward()
    assert not frames.grad[1, 31:].any() and frames.grad[0].any()


def test_a_ratio_that_is_not_that_of_the_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="50 frames, the semantic one 17: 2 is not"):
        SpeakerStream(2, 2, 2)(torch.randn(1, 100, 2), torch.tensor([100]), torch.tensor([17]))
