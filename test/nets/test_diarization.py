"""The diarization head: the linear map, and blocks in front that do not see padding."""

import pytest
import torch

from espnet_mt_llm.nets.diarization import DiarizationHead
from espnet_mt_llm.nets.permutation import pairwise_bce, pit


def test_it_is_one_linear_map() -> None:
    head, hidden = DiarizationHead(6, 3), torch.randn(2, 7, 6)
    assert sum(p.numel() for p in head.parameters()) == 6 * 3 + 3
    expected = torch.nn.functional.linear(hidden, head.linear.weight, head.linear.bias)
    torch.testing.assert_close(head(hidden, torch.tensor([7, 4])), expected)


@pytest.mark.parametrize("block", ["transformer", "e_branchformer"])
def test_blocks_do_not_see_padding(block: str) -> None:
    head = DiarizationHead(6, 3, num_blocks=2, block=block, size=8, attention_heads=2, feed_forward_size=16, kernel=3)
    head.eval()
    hidden = torch.randn(2, 9, 6)
    both = head(hidden, torch.tensor([9, 4]))
    assert both.shape == (2, 9, 3)
    torch.testing.assert_close(both[1:, :4], head(hidden[1:, :4], torch.tensor([4])), atol=1e-5, rtol=1e-4)
    hidden[1, 4:] = 7.0
    torch.testing.assert_close(head(hidden, torch.tensor([9, 4]))[1, :4], both[1, :4], atol=1e-5, rtol=1e-4)


def test_the_paper_size_of_the_blocks() -> None:
    head = DiarizationHead(32, 2, num_blocks=4)
    assert len(head.blocks.encoders) == 4 and head.linear.in_features == 256


@pytest.mark.parametrize("block", ["transformer", "e_branchformer"])
@pytest.mark.parametrize("num_blocks", [0, 1])
def test_the_loss_reaches_the_encoder_and_a_clip_of_one_frame(block: str, num_blocks: int) -> None:
    head = DiarizationHead(6, 2, num_blocks, block, size=8, attention_heads=2, feed_forward_size=16)
    hidden = torch.randn(3, 5, 6, requires_grad=True)
    lengths = torch.tensor([5, 1, 0])
    losses, _ = pit(pairwise_bce(head(hidden, lengths), torch.ones(3, 5, 2), lengths))
    losses.sum().backward()
    assert torch.isfinite(hidden.grad).all() and losses[2].item() == 0
    assert [bool(g.abs().sum() > 0) for g in hidden.grad] == [True, True, False]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_two_speakers_are_learnt_in_any_order() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(8, 30, 4)
    targets = (hidden[..., :2] > 0).float()
    head, lengths = DiarizationHead(4, 2), torch.full((8,), 30)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for step in range(150):
        labels = targets if step % 2 else targets.flip(-1)
        loss = pit(pairwise_bce(head(hidden, lengths), labels, lengths))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.15


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(ValueError, match="'lstm' is none of transformer, e_branchformer"):
        DiarizationHead(4, 2, 1, "lstm")
