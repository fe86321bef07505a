"""The speaker stream: frames centred on the semantic ones, cropped or filled, padding without influence."""

import pytest
import torch

from espnet_mt_llm.nets.speaker_stream import SpeakerStream


def test_frames_are_centred_cropped_and_filled() -> None:
    stream = SpeakerStream(1, 1, stride=3)
    with torch.no_grad():
        stream.convolution.weight.copy_(torch.tensor([[[0.0, 1.0, 0.0]]]))  # the frame in the middle
        stream.convolution.bias.zero_()
    frames = torch.arange(1.0, 13.0)[None, :, None].repeat(3, 1, 1)
    output = stream(frames, torch.tensor([12, 12, 7]), torch.tensor([6, 3, 5]))[..., 0]
    assert output.tolist() == [[1, 4, 7, 10, 10, 10], [1, 4, 7, 0, 0, 0], [1, 4, 7, 7, 7, 0]]


@pytest.mark.parametrize("stride", [1, 3, 6])
def test_a_clip_in_a_batch_is_as_alone(stride: int) -> None:
    torch.manual_seed(0)
    stream = SpeakerStream(5, 4, stride)
    frames, lengths = torch.randn(3, 40, 5, requires_grad=True), torch.tensor([40, 31, 2])
    sizes = -(-lengths // stride) + torch.tensor([1, -1, 0])
    output = stream(frames, lengths, sizes)
    assert output.shape == (3, int(sizes.max()), 4)
    for b, (n, size) in enumerate(zip(lengths.tolist(), sizes.tolist())):
        alone = stream(frames[b: b + 1, :n], lengths[b: b + 1], sizes[b: b + 1])
        torch.testing.assert_close(output[b, :size], alone[0], atol=1e-5, rtol=1e-4)
        assert not output[b, size:].any()
    output.sum().backward()
    assert not frames.grad[1, 31:].any() and frames.grad[0].any()


def test_a_stride_that_is_not_the_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match="50 frames, the semantic one 17: the stride 2 is not"):
        SpeakerStream(2, 2, 2)(torch.randn(1, 100, 2), torch.tensor([100]), torch.tensor([17]))
