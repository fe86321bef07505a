"""The loss of voices: its formulas, the frames that count, what does not."""

import torch

from espnet_mt_llm.nets.voice_loss import VoiceLoss


def test_mean_of_one_less_cosine_over_the_frames_of_one_talker() -> None:
    torch.manual_seed(0)
    loss, frames, voices = VoiceLoss(5, 3), torch.randn(2, 4, 5), torch.randn(2, 2, 3)
    talking = torch.tensor([[1, 0, 2, 2], [0, 0, 1, 0]])
    found = frames @ loss.weight.T + loss.bias
    pairs = [(found[0, 0], voices[0, 0]), (found[0, 2], voices[0, 1]), (found[0, 3], voices[0, 1]),
             (found[1, 2], voices[1, 0])]
    expected = sum(1 - a @ b / a.norm() / b.norm() for a, b in pairs) / 4
    torch.testing.assert_close(loss(frames, voices, talking), expected)
    # Louder voices are the same voices.
    torch.testing.assert_close(loss(frames, 7 * voices, talking), expected)


def test_frames_of_nobody_and_beyond_the_shorter_do_not_count() -> None:
    torch.manual_seed(0)
    loss, frames, voices = VoiceLoss(5, 3), torch.randn(1, 4, 5, requires_grad=True), torch.randn(1, 1, 3)
    longer = loss(frames, voices, torch.tensor([[1, 1, 0, 0, 1, 1]]))
    torch.testing.assert_close(longer, loss(frames[:, :2], voices, torch.tensor([[1, 1]])))
    longer.backward()
    assert frames.grad[0, :2].abs().sum() > 0 and frames.grad[0, 2:].abs().sum() == 0
    nothing = loss(frames, torch.zeros(1, 0, 3), torch.zeros(1, 4, dtype=torch.long))
    nothing.backward()
    assert nothing == 0


def test_a_scale_tells_a_voice_from_the_others_of_its_clip() -> None:
    """The second clip has one voice more than the first one, which is padded."""
    torch.manual_seed(0)
    loss, frames, voices = VoiceLoss(5, 3), torch.randn(2, 4, 5), torch.randn(2, 3, 3)
    voices[0, 2] = 0
    talking = torch.tensor([[1, 0, 2, 2], [0, 0, 1, 0]])
    found = frames @ loss.weight.T + loss.bias
    expected = 0.0
    for clip, place, own, number in ((0, 0, 0, 2), (0, 2, 1, 2), (0, 3, 1, 2), (1, 2, 0, 3)):
        cosines = torch.stack([found[clip, place] @ v / found[clip, place].norm() / v.norm()
                               for v in voices[clip, :number]])
        expected = expected + (1 - cosines[own] - torch.log_softmax(8 * cosines, 0)[own]) / 4
    torch.testing.assert_close(loss(frames, voices, talking, 8.0), expected)
    padded = torch.cat([voices, torch.zeros(2, 5, 3)], dim=1)
    torch.testing.assert_close(loss(frames, padded, talking, 8.0), expected)


def test_a_voice_without_direction_leaves_the_loss_finite() -> None:
    torch.manual_seed(0)
    loss, frames, voices = VoiceLoss(5, 3), torch.randn(1, 2, 5), torch.zeros(1, 2, 3)
    assert torch.isfinite(loss(frames, voices, torch.tensor([[1, 2]]), 8.0))
