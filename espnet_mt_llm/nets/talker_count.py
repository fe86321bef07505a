"""Talker-count head: attentive statistics pooling and a classifier."""

import torch

from espnet_mt_llm.nets.masks import length_mask


class TalkerCountHead(torch.nn.Module):
    """Count the talkers of a clip from the shared encoder's output.

    Attentive statistics pooling (Okabe et al., 2018), then a two-layer classifier::

        e_t   = v^T tanh(W h_t + b),  a = softmax_t(e)      over the frames inside the clip
        mu    = sum_t a_t h_t
        sigma = sqrt(max(sum_t a_t h_t * h_t - mu * mu, 1e-6))
        p     = softmax(W2 Dropout(GELU(W1 LayerNorm([mu; sigma]))))

    Args:
        input_size: D of the encoder output.
        max_talkers: classes are 1 .. max_talkers.
        attention_size, hidden_size, dropout: of the pooling and the classifier.
    """

    def __init__(self, input_size: int, max_talkers: int, attention_size: int = 128, hidden_size: int = 256,
                 dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = torch.nn.Sequential(
            torch.nn.Linear(input_size, attention_size), torch.nn.Tanh(), torch.nn.Linear(attention_size, 1, bias=False)
        )
        self.classifier = torch.nn.Sequential(
            torch.nn.LayerNorm(2 * input_size),
            torch.nn.Linear(2 * input_size, hidden_size),
            torch.nn.GELU(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(hidden_size, max_talkers),
        )

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, max_talkers)`` from ``hidden`` ``(B, T, D)``; class ``i`` means ``i + 1`` talkers."""
        energy = self.attention(hidden).squeeze(-1)
        energy = energy.masked_fill(~length_mask(lengths, hidden.size(1)), float("-inf"))
        weights = energy.softmax(dim=1).unsqueeze(-1)
        mean = (weights * hidden).sum(1)
        variance = (weights * hidden * hidden).sum(1) - mean * mean
        return self.classifier(torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=-1))
