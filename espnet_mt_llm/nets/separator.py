"""Separator: one encoded mixture to one stream a talker."""

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Separator(torch.nn.Module):
    """An LSTM over the encoded mixture, layer norm, and one linear projection a talker (EncSep, arXiv 2409.00815).

    Args:
        input_size: D of the encoder output.
        num_talkers: K streams.
        hidden_size: LSTM output, both directions together.
        num_layers, bidirectional, dropout: of the LSTM.
        output_size: size of a stream; ``input_size`` when None.
    """

    def __init__(self, input_size: int, num_talkers: int, hidden_size: int = 896, num_layers: int = 2,
                 bidirectional: bool = True, dropout: float = 0.0, output_size: int | None = None) -> None:
        super().__init__()
        self.output_size = output_size or input_size
        self.lstm = torch.nn.LSTM(input_size, hidden_size // (2 if bidirectional else 1), num_layers,
                                  batch_first=True, bidirectional=bidirectional,
                                  dropout=dropout if num_layers > 1 else 0.0)
        self.norm = torch.nn.LayerNorm(hidden_size)
        self.projections = torch.nn.ModuleList(
            torch.nn.Linear(hidden_size, self.output_size) for _ in range(num_talkers)
        )

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the streams ``(B, K, T, D')`` from ``hidden`` ``(B, T, D)``; padding never reaches a valid frame."""
        packed = pack_padded_sequence(hidden, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=hidden.size(1))
        output = self.norm(output)
        return torch.stack([projection(output) for projection in self.projections], dim=1)
