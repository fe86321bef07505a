"""Encoder-only serialized CTC, routed by a talker-count head (arXiv 2603.10587)."""

from typing import Any, Optional, Sequence

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from torch.nn import functional as F

from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.models.base import MultiTalkerModel, split_talkers, token_errors
from espnet_mt_llm.nets.separator import Separator
from espnet_mt_llm.nets.serialized_ctc import greedy_ctc, serialized_ctc_loss, too_long
from espnet_mt_llm.nets.talker_count import TalkerCountHead


class Branch(torch.nn.Module):
    """What is specific to K talkers: upper encoder blocks, the separator, and K CTC heads in onset order.

    Args:
        separator: ``(B, T, D) -> (B, K, T, D')``.
        num_talkers: K.
        vocabulary_size: V, blank included.
        blocks: upper encoder blocks ``(B, T, D) -> (L, B, T, D)``; none when None.
    """

    def __init__(self, separator: Separator, num_talkers: int, vocabulary_size: int,
                 blocks: Optional[torch.nn.Module] = None) -> None:
        super().__init__()
        self.blocks = blocks
        self.separator = separator
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(separator.output_size, vocabulary_size) for _ in range(num_talkers)
        )

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return log posteriors ``(B, K, T, V)`` in float32 from the shared encoder's ``(B, T, D)``."""
        if self.blocks is not None:
            hidden = self.blocks(hidden, lengths)[-1]
        streams = self.separator(hidden, lengths)
        logits = torch.stack([head(stream) for head, stream in zip(self.heads, streams.unbind(1))], dim=1)
        return logits.float().log_softmax(dim=-1)


class SCTCModel(MultiTalkerModel):
    """Shared encoder, talker-count head, and a branch for each number of talkers 1 .. K_max.

    Loss: ``ctc_weight * L_sCTC + count_weight * L_count``; a clip trains the branch of its true talker count, the
    count head routes when decoding.

    Args:
        encoder: the shared speech encoder.
        count_head: the talker-count head; its input is the last layer of ``encoder``.
        branches: branch ``i`` serves ``i + 1`` talkers.
        tokens: the token list; index 0 is the blank.
        ctc_weight, count_weight: weights of the two losses.
        pit: choose the CTC assignment of least loss instead of onset order.
        detach_count: the count head does not train the encoder.
    """

    def __init__(self, encoder: SpeechEncoder, count_head: TalkerCountHead, branches: Sequence[Branch],
                 tokens: Sequence[str], ctc_weight: float = 1.0, count_weight: float = 0.3, pit: bool = False,
                 detach_count: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.count_head = count_head
        self.branches = torch.nn.ModuleList(branches)
        self.tokens = list(tokens)
        self.ctc_weight, self.count_weight = ctc_weight, count_weight
        self.pit, self.detach_count = pit, detach_count

    @property
    def max_talkers(self) -> int:
        """K_max."""
        return len(self.branches)

    def encode(self, speech: torch.Tensor, speech_lengths: torch.Tensor
               ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the shared hidden states ``(B, T, D)``, their lengths ``(B,)`` and count logits ``(B, K_max)``."""
        layers, lengths = self.encoder(speech, speech_lengths)
        hidden = layers[-1]
        return hidden, lengths, self.count_head(hidden.detach() if self.detach_count else hidden, lengths)

    def forward(self, speech: torch.Tensor, speech_lengths: torch.Tensor, text: torch.Tensor,
                text_lengths: torch.Tensor, talkers: torch.Tensor, talkers_lengths: Optional[torch.Tensor] = None,
                utt_id: Optional[Sequence[str]] = None
                ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Return the loss, statistics and weight of a batch.

        Args:
            speech: ``(B, N)`` samples.
            speech_lengths: ``(B,)``.
            text: ``(B, L)`` token ids of all talkers in onset order, one after the other.
            text_lengths: ``(B,)``.
            talkers: ``(B, K_max)`` tokens of each talker; -1 where there is no such talker.
            utt_id: clip ids, named when a loss is not finite.
        """
        hidden, lengths, logits = self.encode(speech, speech_lengths)
        counts = (talkers >= 0).sum(dim=1)
        loss_count = F.cross_entropy(logits, counts - 1, reduction="none")
        loss_ctc = hidden.new_zeros(hidden.size(0))
        stats: dict[str, Any] = {}
        errors = total = 0
        for k in counts.unique().tolist():
            rows = (counts == k).nonzero().squeeze(1)
            size = int(lengths[rows].max())
            log_probs = self.branches[k - 1](hidden[rows, :size], lengths[rows])
            targets, target_lengths = split_talkers(text[rows], talkers[rows, :k])
            names = None if utt_id is None else [utt_id[i] for i in rows.tolist()]
            self.tell_too_long(too_long(lengths[rows], targets, target_lengths).any(1), names)
            losses, order = serialized_ctc_loss(log_probs, lengths[rows], targets, target_lengths, pit=self.pit)
            loss_ctc = loss_ctc.index_copy(0, rows, losses.to(loss_ctc.dtype))
            if not torch.distributed.is_initialized():
                # Statistics are averaged over processes by name: all must have the same names.
                stats[f"loss_ctc_{k}"] = losses.detach().mean()
            if not self.training:
                wrong, reference = token_errors(log_probs, lengths[rows], targets, target_lengths, order)
                errors, total = errors + wrong, total + reference
        loss = self.ctc_weight * loss_ctc + self.count_weight * loss_count
        finite = torch.isfinite(loss)
        if not finite.all():
            keep = self.finite_rows(finite, utt_id)
            names = None if utt_id is None else [utt_id[i] for i in keep.tolist()]
            return self.forward(speech[keep], speech_lengths[keep], text[keep], text_lengths[keep], talkers[keep],
                                utt_id=names)
        stats |= {
            "loss": loss.detach().mean(), "loss_ctc": loss_ctc.detach().mean(),
            "loss_count": loss_count.detach().mean(),
            "acc_count": (logits.argmax(dim=1) + 1 == counts).float().mean(),
        }
        if not self.training:
            stats["token_error"] = torch.tensor(errors / max(1, total))
        return force_gatherable((loss.mean(), stats, speech.new_tensor(float(speech.size(0)))), loss.device)

    @torch.no_grad()
    def transcribe(self, speech: torch.Tensor, speech_lengths: torch.Tensor, counts: Optional[torch.Tensor] = None
                   ) -> tuple[list[list[list[int]]], torch.Tensor]:
        """Decode a batch: route by the count head, or by ``counts`` ``(B,)`` when given, then greedy CTC.

        Returns:
            for each clip, the token ids of its talkers in onset order; and the counts that the head predicted ``(B,)``.
        """
        hidden, lengths, logits = self.encode(speech, speech_lengths)
        predicted = logits.argmax(dim=1) + 1
        routed = predicted if counts is None else counts.clamp(1, self.max_talkers)
        texts: list[list[list[int]]] = [[] for _ in range(len(routed))]
        for k in routed.unique().tolist():
            rows = (routed == k).nonzero().squeeze(1)
            size = int(lengths[rows].max())
            log_probs = self.branches[k - 1](hidden[rows, :size], lengths[rows])
            decoded = greedy_ctc(log_probs.flatten(0, 1), lengths[rows].repeat_interleave(k))
            for i, row in enumerate(rows.tolist()):
                texts[row] = decoded[i * k : (i + 1) * k]
        return texts, predicted
