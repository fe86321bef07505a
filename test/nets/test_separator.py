"""The separator: shapes, and that padding never reaches a valid frame."""

import pytest
import torch

from espnet_mt_llm.nets.separator import LSTM, Separator


@pytest.mark.parametrize("bidirectional", [True, False])
def test_batch_equals_single(bidirectional: bool) -> None:
    torch.manual_seed(0)
    separator = Separator(8, 3, hidden_size=12, num_layers=2, bidirectional=bidirectional).eval()
    hidden, lengths = torch.randn(3, 10, 8), torch.tensor([6, 10, 1])
    streams = separator(hidden, lengths)
    assert streams.shape == (3, 3, 10, 8)
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(streams[i, :, :n], separator(hidden[i : i + 1, :n], lengths[i : i + 1])[0],
                                   atol=1e-6, rtol=1e-5)


def test_unidirectional_looks_back_only() -> None:
    separator = Separator(4, 2, hidden_size=6, bidirectional=False).eval()
    hidden = torch.randn(1, 8, 4)
    changed = hidden.clone()
    changed[:, 5:] += 1
    before, after = (separator(h, torch.tensor([8])) for h in (hidden, changed))
    torch.testing.assert_close(before[:, :, :5], after[:, :, :5])
    assert not torch.allclose(before[:, :, 5:], after[:, :, 5:])


def test_lstm_equals_torch_with_packed_sequences() -> None:
    torch.manual_seed(0)
    ours, reference = LSTM(5, 8), torch.nn.LSTM(5, 4, batch_first=True, bidirectional=True)
    for source, suffix in zip(ours.layers[0], ("", "_reverse")):
        for name, value in source.named_parameters():
            getattr(reference, name + suffix).data.copy_(value)
    hidden, lengths = torch.randn(3, 9, 5), torch.tensor([4, 9, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    found = ours(hidden, lengths)
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[i, :n], expected[i, :n], atol=1e-6, rtol=1e-5)
