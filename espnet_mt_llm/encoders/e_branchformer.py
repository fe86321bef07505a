"""E-Branchformer (Kim et al., 2022) of ESPnet, trained from scratch on log-mel features."""

from collections.abc import Iterable, Sequence
from typing import Any, Optional

import torch

from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.nets.log_mel import LogMel
from espnet_mt_llm.nets.masks import length_mask


class EBranchformerStack(torch.nn.Module):
    """E-Branchformer blocks on frames; a clip gives the same output alone and padded in a batch.

    ESPnet's blocks mask padding in the attention alone, so that their convolutions smear padding into the last
    frames. Here padding is zero in front of every convolution.

    Args:
        input_size: size of the input frames.
        output_size: D.
        num_blocks, attention_heads, mlp_size, kernel, dropout: of the blocks.
        embed: a linear input layer with dropout in front; without it ``input_size`` must equal ``output_size``.
        feed_forward_size: inner size of a feed-forward pair around each block; 0 for none.
    """

    def __init__(self, input_size: int, output_size: int = 128, num_blocks: int = 4, attention_heads: int = 4,
                 mlp_size: int = 512, kernel: int = 15, dropout: float = 0.1, embed: bool = True,
                 feed_forward_size: int = 0) -> None:
        from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder

        super().__init__()
        self.encoder = EBranchformerEncoder(
            input_size, output_size, attention_heads, num_blocks=num_blocks, cgmlp_linear_units=mlp_size,
            cgmlp_conv_kernel=kernel, merge_conv_kernel=kernel, dropout_rate=dropout,
            positional_dropout_rate=dropout, input_layer="linear" if embed else None, layer_drop_rate=0.0,
            use_ffn=feed_forward_size > 0, macaron_ffn=feed_forward_size > 0, linear_units=max(1, feed_forward_size),
            use_flash_attn=False,
        )
        self.output_size, self.num_layers = output_size, num_blocks
        self._mask: Optional[torch.Tensor] = None
        for block in self.encoder.encoders:
            for convolution in (block.cgmlp.csgu.conv, block.depthwise_conv_fusion):
                convolution.register_forward_pre_hook(self._zero_padding)

    def _zero_padding(self, _module: torch.nn.Module, inputs: tuple) -> tuple:
        return (inputs[0] * self._mask,) + inputs[1:]

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor, layers: Optional[Iterable[int]] = None
                ) -> torch.Tensor:
        """Return the hidden states of every block ``(L, B, T, D)``, the last one normalised, from ``(B, T, D_in)``.

        ``layers`` are the blocks to return instead of all, numbered from 0.
        """
        self._mask = length_mask(lengths, frames.size(1)).unsqueeze(1).to(frames.dtype)
        try:
            output, _, _ = self.encoder(frames, lengths, return_all_hs=True)
        finally:
            self._mask = None
        last, hidden = output
        outputs = [*hidden[:-1], last]
        return torch.stack(outputs if layers is None else [outputs[i] for i in layers])


class EBranchformer(SpeechEncoder):
    """Log-mel features and an E-Branchformer.

    Args:
        rate: sampling rate in Hz.
        frontend_conf: arguments of :class:`~espnet_mt_llm.nets.log_mel.LogMel`.
        layers, freeze_layers: see :meth:`SpeechEncoder.use_layers`.
        conf: arguments of :class:`EBranchformerStack`.
    """

    lora_targets = ("linear_q", "linear_k", "linear_v", "linear_out", "w_1", "w_2")

    def __init__(self, rate: int = 16000, frontend_conf: Optional[dict[str, Any]] = None,
                 layers: Optional[Sequence[int]] = None, freeze_layers: int = 0, **conf: Any) -> None:
        super().__init__()
        self.frontend = LogMel(rate, **(frontend_conf or {}))
        self.blocks = EBranchformerStack(self.frontend.output_size, **conf)
        self.output_size, self.frame_shift = self.blocks.output_size, self.frontend.frame_shift
        embed = [self.blocks.encoder.embed] if self.blocks.encoder.embed is not None else []
        self.use_layers(layers, freeze_layers, embed, list(self.blocks.encoder.encoders))

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SpeechEncoder.forward`."""
        frames, frame_lengths = self.frontend(speech, lengths)
        return self.blocks(frames, frame_lengths, self.layers), frame_lengths
