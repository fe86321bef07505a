"""Separator: one encoded mixture to one stream a talker."""

import torch


class LSTM(torch.nn.Module):
    """LSTM layers over padded sequences ``(B, T, D)``; padding never reaches a valid frame.

    The second direction runs over each sequence turned round within its own length. That gives what packed sequences
    give, in a quarter of the time on a CPU, where the fused kernel does not take packed ones.

    Args:
        input_size: D.
        hidden_size: size of the output, both directions together.
        num_layers, bidirectional, dropout: as of ``torch.nn.LSTM``.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bidirectional: bool = True,
                 dropout: float = 0.0) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList(
                torch.nn.LSTM(input_size if layer == 0 else hidden_size, hidden_size // directions, batch_first=True)
                for _ in range(directions)
            ) for layer in range(num_layers)
        )
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return ``(B, T, hidden_size)`` from ``(B, T, D)`` and ``lengths`` ``(B,)``."""
        steps = torch.arange(hidden.size(1), device=hidden.device)
        turned = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps).unsqueeze(-1)
        for i, directions in enumerate(self.layers):
            if i:
                hidden = self.dropout(hidden)
            outputs = [directions[0](hidden)[0]]
            for backward in directions[1:]:
                output = backward(hidden.gather(1, turned.expand_as(hidden)))[0]
                outputs.append(output.gather(1, turned.expand_as(output)))
            hidden = torch.cat(outputs, dim=-1)
        return hidden


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
        self.lstm = LSTM(input_size, hidden_size, num_layers, bidirectional, dropout)
        self.norm = torch.nn.LayerNorm(hidden_size)
        self.projections = torch.nn.ModuleList(
            torch.nn.Linear(hidden_size, self.output_size) for _ in range(num_talkers)
        )

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the streams ``(B, K, T, D')`` from ``hidden`` ``(B, T, D)``; padding never reaches a valid frame."""
        output = self.norm(self.lstm(hidden, lengths))
        return torch.stack([projection(output) for projection in self.projections], dim=1)
