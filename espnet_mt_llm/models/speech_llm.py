"""A language model that hears: who said what in a clip, written in one string.

SpeakerLM (arXiv 2508.06372) and the dual-encoder system with balanced losses (arXiv 2606.13095) are configurations.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from torch.nn import functional as F

from espnet_mt_llm.common import UserError, is_number, is_whole, nearest
from espnet_mt_llm.encoders.interface import SpeakerEncoder, SpeechEncoder
from espnet_mt_llm.models.base import MultiTalkerModel, learns
from espnet_mt_llm.models.llm import LLM
from espnet_mt_llm.models.lora import frozen_dropout
from espnet_mt_llm.models.published import Unchanged
from espnet_mt_llm.nets.layouts import Layout
from espnet_mt_llm.nets.masks import length_mask
from espnet_mt_llm.nets.projectors import Projector
from espnet_mt_llm.nets.registration import RegistrationProjector
from espnet_mt_llm.nets.runs import run_index
from espnet_mt_llm.nets.serialized_ctc import serialized_ctc_loss
from espnet_mt_llm.nets.speaker_loss import (
    MODES, PAD, SPEAKER, TEXT, BalancedLoss, balanced_loss, labels_alone, token_cross_entropy,
)
from espnet_mt_llm.nets.speaker_stream import SpeakerStream
from espnet_mt_llm.nets.voice_loss import VoiceLoss

# What stands in a prompt where the audio goes; the k-th registered voice is ENROLLED - k.
AUDIO, ENROLLED = -1, -2
# The loss of a step that trains the encoder alone, beside those of the language model.
KEEP = "keep"
LOSSES = (*MODES, KEEP)
# What a batch says of each token of the target.
LIKE_TARGET = ("types", "weights", "overlapped", "saying")


class Heard(NamedTuple):
    """What the encoders give of a batch, before anything of this model's own.

    Attributes:
        semantic: ``(B, T, L * D)``, the chosen layers side by side.
        lengths: ``(B,)`` of it.
        speaker: ``(B, T', E)`` chunk embeddings; None without a speaker stream.
        speaker_lengths: ``(B,)`` of it.
    """

    semantic: torch.Tensor
    lengths: torch.Tensor
    speaker: Optional[torch.Tensor] = None
    speaker_lengths: Optional[torch.Tensor] = None


class SpeechLLM(MultiTalkerModel):
    """Encoders, adapters, a layout of their frames, registered voices, and a causal language model.

    Args:
        llm: the language model.
        encoder: of speech; None for a model of text alone, the pre-training of a small language model.
        adapter: from its frames to the input space of the language model.
        layout: how the frames stand there.
        speaker_encoder: of speakers; for a speaker stream, or for registration.
        speaker_stream: its chunk embeddings at the rate of the adapter's frames; None where the layout takes none.
        speaker_adapter: from there to the input space.
        registration: from embeddings of registered voices to the input space.
        voice: from frames to the voice of who talks, for the loss of voices; None without it. Frames are what the
            language model reads; with ``loss: keep`` those of the first of the encoder's chosen layers.
        answer_voice: the same from hidden states of the language model; None without it.
        before: the encoder as it was, frozen, for ``loss: keep``; None where what is in its last layer is frozen.
        ctc: from frames of the encoder's last layer to the tokens of the language model and, the first one, the blank;
            for ``ctc_weight``, None without it.
        chunk_sizes: seconds of the chunks whose embeddings stand side by side.
        raw_chunks: their statistics instead of embeddings.
        mean_window: seconds around each frame over which the mean of the extractor's features is taken for them; None
            for the clip.
        loss: ``ce``, ``asr_spk`` or ``balanced``, see :func:`~espnet_mt_llm.nets.speaker_loss.balanced_loss`; or
            ``keep``, with which the encoder alone learns voices, and does not forget what it knows: the mean squared
            distance of its last layer from that of ``before`` (as Li and Hoiem, Learning without forgetting, 2016, of
            outputs).
        ctc_weight: of the words, by CTC (:func:`~espnet_mt_llm.nets.serialized_ctc.serialized_ctc_loss`), which is
            added to ``keep``: what the encoder knows it may know better.
        threshold: of the mask of ``balanced``: ``adaptive``, infinite, or 0.
        floor: of the adaptive threshold, in nats.
        voice_weight: of the losses of ``voice`` and ``answer_voice``, which are added.
        voice_layer: how many layers the hidden states of ``answer_voice`` have behind them.
        voice_scale: of both losses, with which a voice is told from the others, too; None without.
    """

    def __init__(self, llm: LLM, encoder: Optional[SpeechEncoder] = None, adapter: Optional[Projector] = None,
                 layout: Optional[Layout] = None, speaker_encoder: Optional[SpeakerEncoder] = None,
                 speaker_stream: Optional[SpeakerStream] = None, speaker_adapter: Optional[Projector] = None,
                 registration: Optional[RegistrationProjector] = None, voice: Optional[VoiceLoss] = None,
                 answer_voice: Optional[VoiceLoss] = None, before: Optional[SpeechEncoder] = None,
                 ctc: Optional[torch.nn.Linear] = None, chunk_sizes: Sequence[float] = (0.4, 0.2, 0.1),
                 raw_chunks: bool = False, mean_window: Optional[float] = None, loss: str = "ce",
                 ctc_weight: float = 0.0, threshold: Union[str, float] = "adaptive", floor: float = 2.0,
                 voice_weight: float = 0.0, voice_layer: Optional[int] = None, voice_scale: Optional[float] = None
                 ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss: '{loss}'; {nearest(str(loss), LOSSES)}")
        if threshold not in ("adaptive", 0, float("inf")):
            raise ValueError(f"threshold: {threshold!r} is neither adaptive nor .inf nor 0")
        if not is_number(floor):
            raise ValueError(f"floor: {floor!r} is no number")
        layers = llm.model.config.num_hidden_layers
        if voice_layer is not None and (not is_whole(voice_layer)):
            raise ValueError(f"voice_layer: {voice_layer!r} is no whole number")
        if voice_layer is not None and not (voice_weight and 1 <= voice_layer <= layers):
            raise ValueError(f"voice_layer: {voice_layer} of {layers} layers, with voice_weight {voice_weight:g}; "
                             f"expected 1 to {layers}, and a weight above 0")
        if voice_scale is not None and not (voice_weight and voice_scale > 0):
            raise ValueError(f"voice_scale: {voice_scale}, with voice_weight {voice_weight:g}; expected both above 0")
        self.llm, self.encoder, self.adapter, self.layout = llm, encoder, adapter, layout
        self.speaker_encoder, self.speaker_stream = speaker_encoder, speaker_stream
        self.speaker_adapter, self.registration = speaker_adapter, registration
        self.voice, self.answer_voice, self.before, self.ctc = voice, answer_voice, before, ctc
        self.chunk_sizes, self.raw_chunks, self.mean_window = tuple(chunk_sizes), raw_chunks, mean_window
        self.loss, self.ctc_weight, self.threshold, self.floor = loss, ctc_weight, threshold, floor
        self.voice_weight, self.voice_layer, self.voice_scale = voice_weight, voice_layer, voice_scale
        self._unchanged: dict[str, Unchanged] = {}

    def train(self, mode: bool = True) -> "SpeechLLM":
        """Set the mode; adapters that are not trained have no dropout, as all else that is frozen."""
        super().train(mode)
        for module in frozen_dropout(self):
            module.training = False
        return self

    def leave_out_published(self, parts: Collection[str]) -> None:
        """Keep the weights of ``parts`` that are as published out of the state; see ``models/published.py``.

        To be called once, when it is decided what is trained.

        Args:
            parts: names of the parts whose weights are from published files: llm, encoder, speaker_encoder.
        """
        self._unchanged = {name: Unchanged(getattr(self, name), name in parts)
                           for name in ("llm", "encoder", "speaker_encoder") if getattr(self, name) is not None}
        self.register_state_dict_post_hook(self._leave_out)

    @staticmethod
    def _leave_out(model: "SpeechLLM", state: dict[str, torch.Tensor], prefix: str, _metadata: Any) -> None:
        for name, unchanged in model._unchanged.items():
            unchanged.leave_out(state, f"{prefix}{name}.")

    @property
    def uses_speaker(self) -> bool:
        """Whether the layout takes a speaker stream."""
        return self.layout is not None and self.layout.uses_speaker

    def hear(self, speech: torch.Tensor, lengths: torch.Tensor) -> Heard:
        """Run the encoders on ``speech`` ``(B, N)``; those that are frozen leave no graph."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns(self.encoder)):
            layers, frames = self.encoder(speech, lengths)
            semantic = layers.permute(1, 2, 0, 3).flatten(2)
        if not self.uses_speaker:
            return Heard(semantic, frames)
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns(self.speaker_encoder)):
            return Heard(semantic, frames, *self.speaker_encoder.chunks(speech, lengths, self.chunk_sizes,
                                                                        self.raw_chunks, self.mean_window))

    def positions(self, heard: Heard) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what stands for the audio, ``(B, A, H)``, and how much of it each clip has, ``(B,)``."""
        semantic, lengths = self.adapter(heard.semantic, heard.lengths)
        speaker = anchors = None
        if self.uses_speaker:
            stream = self.speaker_stream(heard.speaker, heard.speaker_lengths, lengths)
            speaker, _ = self.speaker_adapter(stream, lengths)
            # One convolution more or less of padding must not make the streams differ.
            semantic = semantic[:, : speaker.size(1)]
        if len(self.layout.anchor_ids):
            anchors = self.llm.embed(self.layout.anchor_ids)
        try:
            self.layout.length(semantic.size(1))
        except ValueError as e:
            raise UserError(f"layout: {e}; see layout_conf") from None
        return self.layout(semantic, speaker, lengths, anchors)

    def prepare(self, speech: Optional[torch.Tensor], lengths: Optional[torch.Tensor], prompt: torch.Tensor,
                prompt_lengths: torch.Tensor, enrolled: Optional[torch.Tensor] = None, heard: Optional[Heard] = None,
                utt_id: Optional[Sequence[str]] = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a decoder begins with: embeddings ``(B, P', H)``, padded in front, and a mask ``(B, P')``.

        Args:
            speech: ``(B, N)`` samples; None where ``heard`` is given, or for a model of text.
            lengths: ``(B,)``.
            prompt: ``(B, P)`` token ids, :data:`AUDIO` and :data:`ENROLLED` among them.
            prompt_lengths: ``(B,)``.
            enrolled: ``(B, R, E)`` embeddings of the registered voices.
            heard: what :meth:`hear` has given already.
            utt_id: clip ids, for messages.

        Raises:
            UserError: a clip longer than the positions of the language model.
        """
        if heard is None and speech is not None and self.encoder is not None:
            heard = self.hear(speech, lengths)
        audio = None if heard is None or self.encoder is None else self.positions(heard)
        embeds, inside = self._assemble(prompt, length_mask(prompt_lengths, prompt.size(1)), audio, enrolled, utt_id,
                                        left=True)
        return embeds, inside.long()

    def _assemble(self, tokens: torch.Tensor, valid: torch.Tensor, audio: Optional[tuple[torch.Tensor, torch.Tensor]],
                  enrolled: Optional[torch.Tensor], utt_id: Optional[Sequence[str]], left: bool
                  ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put audio and voices to their places among ``tokens`` ``(B, S)``: embeddings ``(B, P, H)`` and mask.

        All come from one table of rows in one lookup: 0 | tokens | audio | voices.

        Args:
            valid: ``(B, S)``, False for tokens that are padding, wherever they stand.
            audio: what :meth:`positions` gives.
        """
        batch, size = tokens.shape
        clip = torch.arange(batch, device=tokens.device).unsqueeze(1)
        embeds = self.llm.embed(tokens.clamp(min=0))
        table = [embeds.new_zeros(1, embeds.size(-1)), embeds.flatten(0, 1)]
        starts = 1 + clip * size + torch.arange(size, device=tokens.device)
        sizes = valid.long()
        first = 1 + batch * size
        is_audio, is_voice = tokens == AUDIO, tokens <= ENROLLED
        if audio is None:
            sizes = sizes.masked_fill(is_audio, 0)
        else:
            frames, counts = audio
            table.append(frames.flatten(0, 1).to(embeds.dtype))
            starts = torch.where(is_audio, first + clip * frames.size(1), starts)
            sizes = torch.where(is_audio & valid, counts.unsqueeze(1), sizes)
            first += batch * frames.size(1)
        if enrolled is None or self.registration is None:
            sizes = sizes.masked_fill(is_voice, 0)
        else:
            table.append(self.registration(enrolled).flatten(0, 1).to(embeds.dtype))
            starts = torch.where(is_voice, first + clip * enrolled.size(1) + ENROLLED - tokens, starts)
        self._check_positions(sizes, None if audio is None else audio[1], valid, utt_id)
        index, inside = run_index(starts, sizes, left)
        return F.embedding(index, torch.cat(table), padding_idx=0), inside

    def _check_positions(self, sizes: torch.Tensor, audio: Optional[torch.Tensor], valid: torch.Tensor,
                         utt_id: Optional[Sequence[str]]) -> None:
        """Raise a :class:`UserError` for a clip with more positions than the language model has."""
        total = sizes.sum(1)
        longest = int(total.argmax())
        if int(total[longest]) > self.llm.max_positions:
            name = utt_id[longest] if utt_id is not None else str(longest)
            heard = 0 if audio is None else int(audio[longest])
            raise UserError(f"clip '{name}' takes {int(total[longest])} positions, {heard} of them for audio; the "
                            f"language model has {self.llm.max_positions}; cut shorter clips (--max_clip), give the "
                            "adapter a larger stride, or register fewer speakers")

    def forward(self, prompt: torch.Tensor, prompt_lengths: torch.Tensor, target: torch.Tensor,
                target_lengths: torch.Tensor, types: torch.Tensor, weights: torch.Tensor,
                overlapped: Optional[torch.Tensor] = None, enrolled: Optional[torch.Tensor] = None,
                speech: Optional[torch.Tensor] = None, speech_lengths: Optional[torch.Tensor] = None,
                semantic: Optional[torch.Tensor] = None, semantic_lengths: Optional[torch.Tensor] = None,
                speaker: Optional[torch.Tensor] = None, speaker_lengths: Optional[torch.Tensor] = None,
                voices: Optional[torch.Tensor] = None, talking: Optional[torch.Tensor] = None,
                saying: Optional[torch.Tensor] = None, utt_id: Optional[Sequence[str]] = None, **_: Any
                ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Return the loss, statistics and weight of a batch.

        Args:
            prompt: ``(B, P)``, see :meth:`prepare`.
            target: ``(B, U)`` token ids to learn, the end included.
            types: ``(B, U)`` kinds of these tokens.
            weights: ``(B, U)``, text tokens of the segment at each speaker token.
            overlapped: ``(B, U)``, 1 where another speaker talks too.
            enrolled: ``(B, R, E)``.
            speech: ``(B, N)`` samples, or instead
            semantic, speaker: what the encoders have given, ``(B, T, D)`` and ``(B, T', E)``.
            voices, talking: who talks in each of the adapter's frames, see :class:`VoiceLoss`.
            saying: ``(B, U)``, whose voice the state that predicts each token of the target should have, as
                ``talking``.
            utt_id: clip ids, named when a loss is not finite.
        """
        batch = {name: value for name, value in locals().items() if isinstance(value, torch.Tensor)}
        heard = None
        if semantic is not None:
            heard = Heard(semantic, semantic_lengths, speaker, speaker_lengths)
        elif speech is not None and self.encoder is not None:
            heard = self.hear(speech, speech_lengths)
        known = length_mask(target_lengths, target.size(1))
        types = types.masked_fill(~known, PAD)
        if self.loss == KEEP:
            frames = heard.semantic[..., : self.encoder.output_size]
            each = self._forgotten(heard, speech, speech_lengths).unsqueeze(1)
        else:
            audio = None if heard is None else self.positions(heard)
            frames = None if audio is None else audio[0]
            logits, middle = self.predict(prompt, prompt_lengths, target, target_lengths, audio, enrolled, utt_id)
            each = token_cross_entropy(logits, target.masked_fill(~known, -1))
        finite = torch.isfinite(each).all(1)
        if not finite.all():
            rows = self.finite_rows(finite, utt_id)
            return self.forward(**some_rows(batch, rows), utt_id=None if utt_id is None else
                                [utt_id[i] for i in rows.tolist()])
        if self.loss == KEEP:
            # A frame counts as much as any other.
            loss = (each.squeeze(1) * heard.lengths).sum() / heard.lengths.sum()
            stats = {"loss": loss.detach(), "loss_keep": loss.detach()}
        else:
            result = balanced_loss(each, types, weights, self.loss, self.threshold, self.floor,
                                   None if overlapped is None else overlapped.bool())
            stats, loss = self._statistics(result, logits, target, types), result.loss
        added = {}
        if self.ctc is not None and self.loss == KEEP:
            added["loss_ctc"] = self.ctc_weight, self._read(heard, target, types)
        if self.voice is not None and talking is not None:
            added["loss_voice"] = self.voice_weight, self.voice(frames, voices, talking, self.voice_scale)
        if self.answer_voice is not None and saying is not None and self.loss != KEEP:
            if labels_alone(self.loss, self.threshold):
                # Labels alone are learnt: elsewhere nothing may tell whether a turn goes on.
                saying = saying.masked_fill(types != SPEAKER, 0)
            added["loss_answer_voice"] = self.voice_weight, self.answer_voice(middle, voices, saying, self.voice_scale)
        for name, (weight, value) in added.items():
            loss = loss + weight * value
            stats |= {"loss": loss.detach(), name: value.detach()}
        return force_gatherable((loss, stats, each.new_tensor(float(len(target)))), each.device)

    def _forgotten(self, heard: Heard, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the mean squared distance ``(B,)`` of the frames of the encoder's last chosen layer from before."""
        if self.before is None:
            # Not a number where the frames are none, so that such a clip is left out.
            return (heard.semantic.float() * 0).sum((1, 2))
        with torch.no_grad():
            layers, _ = self.before(speech, lengths)
        away = heard.semantic[..., -self.encoder.output_size:].float() - layers[-1].float()
        outside = ~length_mask(heard.lengths, away.size(1)).unsqueeze(-1)
        return away.square().masked_fill(outside, 0.0).sum((1, 2)) / (heard.lengths * away.size(2))

    def _read(self, heard: Heard, target: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return the loss of CTC of the words of ``target``, a mean over its clips of that of a token."""
        words = types == TEXT
        # Words first, in their order; 0 is the blank.
        order = (~words).long().argsort(dim=1, stable=True)
        last = heard.semantic[..., -self.encoder.output_size:]
        with torch.autocast(last.device.type, enabled=False):
            log_probs = self.ctc(last.float()).log_softmax(-1).unsqueeze(1)
        return serialized_ctc_loss(log_probs, heard.lengths, (target + 1).gather(1, order).unsqueeze(1),
                                   words.sum(1, keepdim=True))[0].mean()

    def predict(self, prompt: torch.Tensor, prompt_lengths: torch.Tensor, target: torch.Tensor,
                target_lengths: torch.Tensor, audio: Optional[tuple[torch.Tensor, torch.Tensor]] = None,
                enrolled: Optional[torch.Tensor] = None, utt_id: Optional[Sequence[str]] = None
                ) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Return the logits ``(B, U, V)`` of each target token, given those before it, and the states ``(B, U, H)``
        behind ``voice_layer`` (None without it) that predict it.

        The output layer, most of the work of a small model with a large vocabulary, sees the target only.

        Args:
            prompt, target, enrolled, utt_id: see :meth:`forward`.
            audio: what :meth:`positions` gives.
        """
        hidden, middle = self.target_states(prompt, prompt_lengths, target, target_lengths, audio, enrolled, utt_id)
        return self.llm.logits(hidden), middle

    def target_states(self, prompt: torch.Tensor, prompt_lengths: torch.Tensor, target: torch.Tensor,
                      target_lengths: torch.Tensor, audio: Optional[tuple[torch.Tensor, torch.Tensor]] = None,
                      enrolled: Optional[torch.Tensor] = None, utt_id: Optional[Sequence[str]] = None
                      ) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Return the last states ``(B, U, H)`` that predict each target token, and those behind ``voice_layer``.

        Clips are padded at their ends alone, so that no mask is needed. For the arguments see :meth:`predict`.
        """
        known = length_mask(target_lengths, target.size(1))
        tokens = torch.cat([prompt, target], dim=1)
        valid = torch.cat([length_mask(prompt_lengths, prompt.size(1)), known], dim=1)
        embeds, inside = self._assemble(tokens, valid, audio, enrolled, utt_id, left=False)
        hidden, middle = self.llm.states(embeds, layer=self.voice_layer)
        # The token before the first one of the target predicts it.
        steps = (inside.sum(1) - known.sum(1) - 1).unsqueeze(1) + torch.arange(target.size(1), device=target.device)
        steps = steps.clamp(0, hidden.size(1) - 1)
        index = steps.unsqueeze(-1).expand(-1, -1, hidden.size(-1))
        return hidden.gather(1, index), None if middle is None else middle.gather(1, index)

    def _statistics(self, result: BalancedLoss, logits: torch.Tensor, target: torch.Tensor, types: torch.Tensor
                    ) -> dict[str, torch.Tensor]:
        """Return loss, its parts, and the share of tokens, and of speaker tokens, that are predicted right."""
        right = (logits.detach().argmax(-1) == target).float()
        stats = {"loss": result.loss.detach(), "loss_asr": result.asr, "loss_spk": result.speaker,
                 "acc": _mean(right, types != PAD), "acc_spk": _mean(right, types == SPEAKER)}
        if self.loss == "balanced":
            # Of no token there is no share: the logs leave out what is not a number.
            stats["masked_clean"], stats["masked_overlapped"] = result.masked_share()
        return stats


def some_rows(batch: Mapping[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the ``rows`` of a padded batch, without the padding that they do not need."""
    found = {name: value[rows] for name, value in batch.items()}
    lengths = {name: found.get(f"{'target' if name in LIKE_TARGET else name}_lengths") for name in found}
    return {name: value if lengths[name] is None else value[:, : int(lengths[name].max())]
            for name, value in found.items()}


def _mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the mean of the chosen ones, NaN where there are none."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum()
