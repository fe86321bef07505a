"""Diarization head: the encoded mixture to the activity of each speaker in each frame."""

import torch

BLOCKS = ("transformer", "e_branchformer")


class DiarizationHead(torch.nn.Module):
    """One linear map to a logit a speaker and frame (UME, arXiv 2508.20474), behind optional blocks.

    Args:
        input_size: D.
        num_speakers: S.
        num_blocks: blocks in front of the linear map; 0 for the linear map alone.
        block: ``transformer`` (as the diarization encoders of ESPnet) or ``e_branchformer``.
        size, attention_heads, feed_forward_size, dropout: of the blocks; the inner size of an E-Branchformer's MLP is
            ``feed_forward_size``.
        kernel: of the convolutions of an E-Branchformer.

    Raises:
        ValueError: an unknown ``block``.
    """

    def __init__(self, input_size: int, num_speakers: int, num_blocks: int = 0, block: str = "transformer",
                 size: int = 256, attention_heads: int = 4, feed_forward_size: int = 512, dropout: float = 0.1,
                 kernel: int = 15) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise ValueError(f"block: '{block}' is none of {', '.join(BLOCKS)}")
        self.num_speakers, self.block = num_speakers, block
        self.blocks = None
        if num_blocks and block == "transformer":
            from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

            self.blocks = TransformerEncoder(
                input_size, size, attention_heads, feed_forward_size, num_blocks, dropout_rate=dropout,
                positional_dropout_rate=dropout, input_layer="linear", use_flash_attn=False,
            )
        elif num_blocks:
            from espnet_mt_llm.encoders.e_branchformer import EBranchformerStack

            self.blocks = EBranchformerStack(input_size, size, num_blocks, attention_heads, feed_forward_size, kernel,
                                             dropout)
        self.linear = torch.nn.Linear(size if num_blocks else input_size, num_speakers)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, T, S)`` from ``hidden`` ``(B, T, D)``; the longest of ``lengths`` ``(B,)`` is T.

        Padding never reaches a valid frame.
        """
        if self.blocks is not None:
            hidden = self.blocks(hidden, lengths)[-1 if self.block == "e_branchformer" else 0]
        return self.linear(hidden)
