"""What the models share: token lists of talkers, token errors, clips to leave out or to warn of."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.models.base import MultiTalkerModel, split_talkers, token_errors


@given(clips=st.lists(st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=3, max_size=3), min_size=1,
                      max_size=4))
def test_split_talkers_is_the_inverse_of_joining(clips: list) -> None:
    joined = [torch.tensor([i for talker in clip for i in talker], dtype=torch.long) for clip in clips]
    text = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)
    targets, sizes = split_talkers(text, torch.tensor([[len(talker) for talker in clip] for clip in clips]))
    rows = [[targets[b, k, : sizes[b, k]].tolist() for k in range(3)] for b in range(len(clips))]
    assert rows == clips
    assert sum(int(t.sum()) for t in targets) == int(text.sum())  # nothing but zeros beyond the sizes


def log_probs_of(clips: list, frames: int = 8, vocabulary: int = 6) -> torch.Tensor:
    """CTC posteriors ``(B, K, T, V)`` whose best path says what is given, with a blank between the tokens."""
    best = torch.zeros(len(clips), len(clips[0]), frames, dtype=torch.long)
    for b, clip in enumerate(clips):
        for k, tokens in enumerate(clip):
            best[b, k, 1 : 2 * len(tokens) : 2] = torch.tensor(tokens)
    return torch.nn.functional.one_hot(best, vocabulary).float().log_softmax(-1)


@pytest.mark.parametrize("said, order, errors", [
    ([[[1, 2], [3]]], [[0, 1]], 0),
    ([[[3], [1, 2]]], [[1, 0]], 0),  # the streams are the other way round, and the order says so
    ([[[3], [1, 2]]], [[0, 1]], 4),  # 12 -> 3: two errors, and two back
    ([[[1, 1, 2], []]], [[0, 1]], 2),  # an insertion and a deletion
])
def test_token_errors(said: list, order: list, errors: int) -> None:
    targets, sizes = torch.tensor([[[1, 2], [3, 0]]]), torch.tensor([[2, 1]])
    found = token_errors(log_probs_of(said), torch.tensor([8]), targets, sizes, torch.tensor(order))
    assert found == (errors, 3)


def test_token_errors_end_with_the_clip() -> None:
    targets, sizes = torch.tensor([[[1, 2]], [[1, 2]]]), torch.tensor([[2], [2]])
    log_probs = log_probs_of([[[1, 2, 3]], [[1, 2]]])
    assert token_errors(log_probs, torch.tensor([4, 8]), targets, sizes, torch.zeros(2, 1).long()) == (0, 4)


def test_rows_to_go_on_with(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = MultiTalkerModel.finite_rows(torch.tensor([True, False, True]), ["a", "b", "c"])
    assert rows.tolist() == [0, 2] and "not finite for b;" in caplog.text
    with pytest.raises(UserError, match="for 0, 1: the whole batch"):
        MultiTalkerModel.finite_rows(torch.tensor([False, False]), None)
