"""UME: one encoder for diarization, separation and recognition (arXiv 2508.20474)."""

from typing import Mapping, NamedTuple, Optional, Sequence

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from torch.nn import functional as F

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.models.base import MultiTalkerModel, split_talkers, token_errors
from espnet_mt_llm.nets.masks import length_mask
from espnet_mt_llm.nets.permutation import pair_mean, pairwise_bce, pairwise_si_sdr, pit
from espnet_mt_llm.nets.rwse import ResidualWeightedSum
from espnet_mt_llm.nets.serialized_ctc import greedy_ctc, too_long
from espnet_mt_llm.nets.talker_count import TalkerCountHead

TASKS = ("diarization", "separation", "recognition")
TIES = ("none", *TASKS)


class Heard(NamedTuple):
    """What one forward pass gives of a batch; None where there is no such head.

    Attributes:
        lengths: ``(B,)`` frames.
        activity: ``(B, T, S)`` logits.
        waves: ``(B, S, N)``.
        streams, log_probs: of recognition, ``(B, S, T, D)`` and ``(B, S, T, V)``.
        counts: ``(B, S)`` logits of 1 .. S talkers.
    """

    lengths: torch.Tensor
    activity: Optional[torch.Tensor]
    waves: Optional[torch.Tensor]
    streams: Optional[torch.Tensor]
    log_probs: Optional[torch.Tensor]
    counts: Optional[torch.Tensor]


class UMEModel(MultiTalkerModel):
    """A shared encoder, residual weighted sums of its layers, and a head for each task.

    ``L = w_diar L_diar + w_sep L_sep + w_asr L_asr`` (equation 15 of the paper), every term with a permutation of its
    own by default. Any subset of the heads is a model: single-task baselines are configurations.

    Args:
        encoder: the shared speech encoder.
        rwse: the residual weighted sums; its tasks are the names of ``heads``.
        heads: task → head, of ``diarization``, ``separation`` and ``recognition``.
        tokens: the token list; index 0 is the blank.
        max_talkers: S.
        weights: task → weight of its loss; 0.33 when left out.
        count_head: decides how many talkers there are; for ``variable_speakers``.
        count_weight: weight of its loss.
        variable_speakers: clips may have 1 to S talkers; those that are not there are silent streams.
        tie_permutation: the task whose permutation the others use, ``none`` for independent ones.
        si_sdr_clip: dB beyond which separation is good enough.
        separation_warmup: steps over which the weight of separation grows from 0; its gradient, in dB, is what
            overwhelms the others at the beginning.
    """

    def __init__(self, encoder: SpeechEncoder, rwse: ResidualWeightedSum, heads: Mapping[str, torch.nn.Module],
                 tokens: Sequence[str], max_talkers: int, weights: Optional[Mapping[str, float]] = None,
                 count_head: Optional[TalkerCountHead] = None, count_weight: float = 0.1,
                 variable_speakers: bool = False, tie_permutation: str = "none", si_sdr_clip: float = 30.0,
                 separation_warmup: int = 0) -> None:
        super().__init__()
        if tie_permutation not in ("none", *heads):
            raise ValueError(f"tie_permutation: '{tie_permutation}' is none of: none, {', '.join(heads)}")
        for task in weights or {}:
            if task not in TASKS:
                raise ValueError(f"weights: '{task}' is none of: {', '.join(TASKS)}")
        self.encoder, self.rwse = encoder, rwse
        self.heads = torch.nn.ModuleDict(heads)
        self.count_head = count_head if variable_speakers else None
        self.tokens, self.max_talkers = list(tokens), max_talkers
        self.weights = {task: float((weights or {}).get(task, 0.33)) for task in heads}
        self.count_weight, self.variable_speakers = count_weight, variable_speakers
        self.tie_permutation, self.si_sdr_clip = tie_permutation, si_sdr_clip
        self.separation_warmup = separation_warmup
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def hear(self, speech: torch.Tensor, lengths: torch.Tensor, tasks: Optional[Sequence[str]] = None) -> Heard:
        """Run the encoder once and the heads of ``tasks`` (all by default) on ``speech`` ``(B, N)``."""
        layers, frames = self.encoder(speech, lengths)
        encoded = self.rwse(layers)
        wanted = [task for task in self.heads if tasks is None or task in tasks]
        activity = waves = streams = log_probs = None
        if "diarization" in wanted:
            activity = self.heads["diarization"](encoded["diarization"], frames)
        if "separation" in wanted:
            waves = self.heads["separation"](speech, encoded["separation"], lengths, frames)
        if "recognition" in wanted:
            streams, log_probs = self.heads["recognition"](encoded["recognition"], frames)
        counts = None if self.count_head is None else self.count_head(layers[-1], frames)
        return Heard(frames, activity, waves, streams, log_probs, counts)

    def forward(self, speech: torch.Tensor, speech_lengths: torch.Tensor, text: torch.Tensor,
                text_lengths: torch.Tensor, talkers: torch.Tensor, talkers_lengths: Optional[torch.Tensor] = None,
                activity: Optional[torch.Tensor] = None, activity_lengths: Optional[torch.Tensor] = None,
                sources: Optional[torch.Tensor] = None, sources_lengths: Optional[torch.Tensor] = None,
                utt_id: Optional[Sequence[str]] = None
                ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Return the loss, statistics and weight of a batch.

        Args:
            speech: ``(B, N)`` samples.
            speech_lengths: ``(B,)``.
            text: ``(B, L)`` token ids of all talkers in onset order, one after the other.
            text_lengths: ``(B,)``.
            talkers: ``(B, S)`` tokens of each talker; -1 where there is no such talker.
            activity: ``(B, T', S)``, 1 where a talker speaks in a frame of the encoder.
            sources: ``(B, N, S)`` clean signals; without them nothing is learnt about separation.
            utt_id: clip ids, named when a loss is not finite.

        Raises:
            UserError: fewer than S talkers without ``variable_speakers``.
        """
        present = talkers >= 0
        if not self.variable_speakers and not present.all():
            clip = (utt_id or [str(i) for i in range(len(present))])[int((~present).any(1).nonzero()[0])]
            raise UserError(f"clip '{clip}' has fewer than {self.max_talkers} talkers; train on clips of "
                            f"{self.max_talkers} (talkers: [{self.max_talkers}]), or set variable_speakers: true")
        tasks = [task for task in self.heads if task != "separation" or sources is not None]
        if not tasks:
            raise UserError("separation is the only head and the data have no clean signals; train on clips with "
                            "mixtures.jsonl, as the stages simulate and clips make them")
        batch = {"speech": speech, "speech_lengths": speech_lengths, "text": text, "text_lengths": text_lengths,
                 "talkers": talkers, "activity": activity, "sources": sources}
        heard = self.hear(speech, speech_lengths, tasks)
        finite = finite_clips(heard.activity, heard.waves, heard.streams, heard.counts, sources)
        if not finite.all():  # no permutation can be chosen from their losses
            return self._without(~finite, batch, utt_id)
        losses, stats = self._losses(heard, tasks, speech_lengths, text, talkers, present, activity, sources, utt_id)
        loss = sum(self._weight(task) * losses[task] for task in tasks)
        if heard.counts is not None:
            losses["count"] = F.cross_entropy(heard.counts, present.sum(1) - 1, reduction="none")
            loss = loss + self.count_weight * losses["count"]
            stats["acc_count"] = (heard.counts.argmax(1) + 1 == present.sum(1)).float().mean()
        finite = torch.isfinite(loss)
        if not finite.all():
            return self._without(~finite, batch, utt_id)
        if self.training:
            self.steps += 1
        stats |= {"loss": loss.detach().mean(), **{f"loss_{task}": value.detach().mean() for task, value in
                                                    losses.items()}}
        return force_gatherable((loss.mean(), stats, speech.new_tensor(float(speech.size(0)))), loss.device)

    def _without(self, broken: torch.Tensor, batch: Mapping[str, Optional[torch.Tensor]],
                 utt_id: Optional[Sequence[str]]) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Return what :meth:`forward` does, without the ``broken`` clips ``(B,)``."""
        rows = self.finite_rows(~broken, utt_id)
        kept = {name: None if value is None else value[rows] for name, value in batch.items()}
        return self.forward(**kept, utt_id=None if utt_id is None else [utt_id[i] for i in rows.tolist()])

    def _weight(self, task: str) -> float:
        """Return the weight of a task's loss at this step."""
        if task == "separation" and self.training and self.separation_warmup:
            return self.weights[task] * min(1.0, int(self.steps) / self.separation_warmup)
        return self.weights[task]

    def _losses(self, heard: Heard, tasks: Sequence[str], speech_lengths: torch.Tensor, text: torch.Tensor,
                talkers: torch.Tensor, present: torch.Tensor, activity: Optional[torch.Tensor],
                sources: Optional[torch.Tensor], utt_id: Optional[Sequence[str]]
                ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the loss ``(B,)`` of each task and the statistics of the batch."""
        losses: dict[str, torch.Tensor] = {}
        stats: dict[str, torch.Tensor] = {}
        order: Optional[torch.Tensor] = None
        # The task that the others follow comes first.
        for task in sorted(tasks, key=lambda t: (t != self.tie_permutation, TASKS.index(t))):
            given = order if self.tie_permutation in tasks else None
            if task == "recognition":
                targets, sizes = split_talkers(text, talkers.clamp(min=0))
                self.tell_too_long(too_long(heard.lengths, targets, sizes).any(1), utt_id)
                result = self.heads[task].loss(heard.streams, heard.log_probs, heard.lengths, targets, sizes, present,
                                               given)
                losses[task], found = result.loss, result.order
                stats["loss_ctc"] = result.ctc.detach().mean()
                if result.attention is not None:
                    stats["loss_att"] = result.attention.detach().mean()
                if not self.training:
                    wrong, reference = token_errors(heard.log_probs, heard.lengths, targets, sizes, found)
                    stats["token_error"] = torch.tensor(wrong / max(1, reference))
            else:
                costs = self._costs(task, heard, speech_lengths, activity, sources)
                losses[task], found = pit(costs) if given is None else (pair_mean(costs, given), given)
            if task == "diarization":
                stats["frame_error"] = frame_error(heard.activity.detach(), activity, heard.lengths, found)
            if task == self.tie_permutation:
                order = found
        return losses, stats

    def _costs(self, task: str, heard: Heard, speech_lengths: torch.Tensor, activity: Optional[torch.Tensor],
               sources: Optional[torch.Tensor]) -> torch.Tensor:
        """Return the pairwise costs ``(B, S, S)`` of diarization or separation."""
        if task == "separation":
            return pairwise_si_sdr(heard.waves, sources.transpose(1, 2), speech_lengths, self.si_sdr_clip)
        return pairwise_bce(heard.activity, activity[:, : heard.activity.size(1)], heard.lengths)

    def layer_weights(self) -> dict[str, list[float]]:
        """Return the learned weights of the layers for each task, for the record of a training."""
        return {task: [round(w, 5) for w in weights.tolist()] for task, weights in self.rwse.weights().items()}

    @torch.no_grad()
    def greedy(self, heard: Heard) -> list[list[list[int]]]:
        """Return the token ids of each stream of each clip by the best path of CTC."""
        speakers = heard.log_probs.size(1)
        decoded = greedy_ctc(heard.log_probs.flatten(0, 1), heard.lengths.repeat_interleave(speakers))
        return [decoded[i * speakers : (i + 1) * speakers] for i in range(len(heard.lengths))]


def finite_clips(*values: Optional[torch.Tensor]) -> torch.Tensor:
    """Say of which clips all ``values`` ``(B, ...)`` are finite: booleans ``(B,)``; None counts as finite."""
    return torch.stack([torch.isfinite(value).flatten(1).all(1) for value in values if value is not None]).all(0)


def frame_error(logits: torch.Tensor, activity: torch.Tensor, lengths: torch.Tensor, order: torch.Tensor
                ) -> torch.Tensor:
    """Return the diarization error of frames at threshold 0.5: (missed + false alarm + confusion) / speaker frames.

    In a frame with r reference and h hypothesis speakers, c of them right, the error is ``max(r, h) - c``.

    Args:
        logits: ``(B, T, S)``.
        activity: ``(B, T', S)``, T' at least T.
        lengths: ``(B,)`` frames.
        order: ``(B, S)`` estimate of each target.
    """
    inside = length_mask(lengths, logits.size(1)).unsqueeze(-1)
    index = order.unsqueeze(1).expand(-1, logits.size(1), -1)
    said = (logits.gather(2, index) > 0) & inside
    true = (activity[:, : logits.size(1)] > 0.5) & inside
    errors = torch.maximum(said.sum(-1), true.sum(-1)) - (said & true).sum(-1)
    return errors.sum() / true.sum().clamp(min=1)
