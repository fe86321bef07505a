"""Recognition head: one stream a speaker from the encoded mixture, shared CTC and attention decoder."""

import inspect
import math
from typing import Any, Callable, NamedTuple, Optional, Sequence

import torch

from espnet_mt_llm.common import nearest
from espnet_mt_llm.nets.masks import length_mask
from espnet_mt_llm.nets.permutation import ctc_pit, permute


class RecognitionLoss(NamedTuple):
    """What :meth:`RecognitionHead.loss` gives: losses ``(B,)`` and the stream of each speaker ``(B, S)``."""

    loss: torch.Tensor
    ctc: torch.Tensor
    attention: Optional[torch.Tensor]
    order: torch.Tensor


class RecognitionHead(torch.nn.Module):
    """Speaker-differentiating encoders, one stack of E-Branchformer blocks a speaker, behind one CTC and one decoder.

    The stacks follow the shared encoder and are the only weights that tell the speakers apart (UME, arXiv 2508.20474;
    there is no order of speakers: permutation-invariant training chooses the stream of each).

    Args:
        input_size: D.
        num_speakers: S.
        vocabulary_size: V, blank (0) and sos/eos included.
        blocks: arguments of :class:`~espnet_mt_llm.encoders.e_branchformer.EBranchformerStack`; 2 blocks by default.
        decoder: arguments of ESPnet's ``TransformerDecoder``; 2 blocks by default.
        ctc_weight: c of ``L = c L_CTC + (1 - c) L_att``; with 1 no decoder is built.
        label_smoothing: of the attention loss.
        sos, eos: ids of the decoder's start and end; the last of the vocabulary when None.
        prefix: ids between the start and the text, e.g. the language and task of OWSM; they are given, not learnt.
        pit: choose the streams of least CTC loss; without it stream k is the k-th speaker's.
        normalise: divide the losses of a speaker by the number of its tokens, so that long texts do not dominate.
        absent: what the streams that no speaker takes learn: ``silence``, an empty text, or nothing (``ignore``).

    Raises:
        ValueError: an unknown key (the nearest valid one is named) or value.
    """

    def __init__(self, input_size: int, num_speakers: int, vocabulary_size: int, blocks: Optional[dict] = None,
                 decoder: Optional[dict] = None, ctc_weight: float = 0.3, label_smoothing: float = 0.1,
                 sos: Optional[int] = None, eos: Optional[int] = None, prefix: Sequence[int] = (), pit: bool = True,
                 normalise: bool = True, absent: str = "silence") -> None:
        from espnet2.asr.ctc import CTC
        from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

        from espnet_mt_llm.encoders.e_branchformer import EBranchformerStack

        super().__init__()
        if not 0 <= ctc_weight <= 1:
            raise ValueError(f"ctc_weight: {ctc_weight} is not between 0 and 1")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: {label_smoothing} is not between 0 and 1")
        if absent not in ("silence", "ignore"):
            raise ValueError(f"absent: '{absent}' is neither 'silence' nor 'ignore'")
        blocks = _checked(EBranchformerStack, {"num_blocks": 2, **(blocks or {})}, "blocks", "input_size",
                          "output_size", "embed")
        self.num_speakers, self.vocabulary_size, self.output_size = num_speakers, vocabulary_size, input_size
        self.ctc_weight, self.label_smoothing = ctc_weight, label_smoothing
        self.sos, self.eos = (vocabulary_size - 1 if i is None else i for i in (sos, eos))
        self.prefix = list(prefix)
        self.pit, self.normalise, self.absent = pit, normalise, absent
        self.stacks = torch.nn.ModuleList(
            EBranchformerStack(input_size, input_size, embed=False, **blocks) for _ in range(num_speakers)
        )
        # ESPnet's modules, so that its beam search scores with them and its checkpoints fit.
        self.ctc = CTC(vocabulary_size, input_size)
        self.decoder = None
        if ctc_weight < 1:
            conf = {"num_blocks": 2, "use_flash_attn": False, **(decoder or {})}
            self.decoder = TransformerDecoder(vocabulary_size, input_size, **_checked(
                TransformerDecoder, conf, "decoder", "vocab_size", "encoder_output_size"))

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the streams ``(B, S, T, D)`` and their CTC log posteriors ``(B, S, T, V)``, in float32.

        Args:
            hidden: ``(B, T, D)``.
            lengths: ``(B,)`` frames, the longest of them T; padding never reaches a valid frame.
        """
        streams = torch.stack([stack(hidden, lengths)[-1] for stack in self.stacks], dim=1)
        return streams, self.ctc.ctc_lo(streams).float().log_softmax(dim=-1)

    def loss(self, streams: torch.Tensor, log_probs: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor,
             target_lengths: torch.Tensor, present: Optional[torch.Tensor] = None,
             order: Optional[torch.Tensor] = None) -> RecognitionLoss:
        """Joint CTC and attention loss; CTC alone chooses the streams, as in ESPnet's permutation-invariant model.

        Args:
            streams, log_probs: of :meth:`forward`.
            lengths: ``(B,)`` frames.
            targets: ``(B, S, L)`` token ids, anything beyond ``target_lengths``.
            target_lengths: ``(B, S)``; 0 for an absent speaker.
            present: ``(B, S)`` booleans, the speakers that exist; all when None. The others take the streams that are
                left, with an empty text; see ``absent``.
            order: ``(B, S)`` streams chosen elsewhere.

        Returns:
            the loss, its parts (``attention`` is None without a decoder) and the stream of each speaker.

        Raises:
            ValueError: a CTC loss is NaN.
        """
        batch, speakers = target_lengths.shape
        if present is None:
            present = torch.ones_like(target_lengths, dtype=torch.bool)
        target_lengths = target_lengths.where(present, 0)
        targets = targets.masked_fill(~length_mask(target_lengths.flatten(), targets.size(-1)).view(targets.shape), 0)
        counted = present if self.absent == "ignore" else torch.ones_like(present)
        if order is None and not self.pit:
            order = torch.arange(speakers, device=lengths.device).expand(batch, -1)
        ctc, order = ctc_pit(log_probs, lengths, targets, target_lengths, counted, order, self.normalise)
        ctc = _mean(ctc, counted)
        if self.decoder is None:
            return RecognitionLoss(ctc, ctc, None, order)
        attention = self._attention(permute(streams, order).flatten(0, 1), lengths.repeat_interleave(speakers),
                                    targets.flatten(0, 1), target_lengths.flatten())
        attention = _mean(attention.view(batch, speakers), counted)
        return RecognitionLoss(self.ctc_weight * ctc + (1 - self.ctc_weight) * attention, ctc, attention, order)

    def _attention(self, memory: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, sizes: torch.Tensor
                   ) -> torch.Tensor:
        """Label-smoothed loss ``(N,)`` of ``targets`` ``(N, L)`` and the end; ``memory`` ``(N, T, D)``.

        The divergence of Szegedy et al. (2016) as ESPnet has it: ``KL(q || p)`` with ``q = 1 - s`` for the token and
        ``s / (V - 1)`` for each other one, so that a perfect model has the loss 0.
        """
        targets = targets[:, : int(sizes.max())]  # ESPnet's decoder masks up to the longest, not up to the padding
        start = targets.new_tensor([self.sos, *self.prefix]).expand(len(targets), -1)
        inputs = torch.cat([start, targets], dim=1)
        logits, _ = self.decoder(memory, lengths, inputs, sizes + start.size(1))
        log_probs = logits[:, len(self.prefix):].float().log_softmax(dim=-1)
        outputs = torch.cat([targets, targets.new_zeros(len(targets), 1)], dim=1)
        outputs = outputs.scatter(1, sizes.unsqueeze(1), self.eos)
        smooth, rest = self.label_smoothing, self.label_smoothing / (self.vocabulary_size - 1)
        token = log_probs.gather(2, outputs.unsqueeze(2)).squeeze(2)
        losses = -(1 - smooth - rest) * token - rest * log_probs.sum(-1)
        if smooth > 0:
            losses = losses + (1 - smooth) * math.log(1 - smooth) + smooth * math.log(rest)
        losses = losses.masked_fill(~length_mask(sizes + 1, outputs.size(1)), 0.0).sum(1)
        return losses / (sizes + 1) if self.normalise else losses


def _mean(losses: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean ``(B,)`` of ``losses`` ``(B, S)`` over the speakers that count."""
    return losses.where(counted, losses.new_zeros(())).sum(1) / counted.sum(1).clamp(min=1)


def _checked(factory: Callable[..., Any], conf: dict, where: str, *fixed: str) -> dict:
    """Return ``conf`` after comparing its keys with the arguments of ``factory``."""
    valid = [name for name in inspect.signature(factory).parameters if name not in fixed]
    for key in conf:
        if key not in valid:
            raise ValueError(f"{where}: unknown key '{key}'; {nearest(str(key), valid)}")
    return conf
