"""A speaker extractor in training: additive angular margin over the training speakers."""

import math
from typing import Any, Optional, Sequence

import torch
from espnet2.torch_utils.device_funcs import force_gatherable
from torch.nn import functional as F

from espnet_mt_llm.encoders.interface import SpeakerEncoder
from espnet_mt_llm.models.base import MultiTalkerModel


class AngularMargin(torch.nn.Module):
    """AAM-softmax (ArcFace, Deng et al., CVPR 2019, equation 3; for speakers Xiang et al., APSIPA 2019).

    With the angle ``t_j`` between the embedding and the weight of speaker j, and the true speaker y,

        L = -log( e^(s cos(t_y + m)) / (e^(s cos(t_y + m)) + sum over j != y of e^(s cos t_j)) ).

    Beyond ``t_y = pi - m``, where ``cos(t + m)`` would rise again, ``cos t_y - m sin m`` stands for it.

    Args:
        embedding_size: E.
        num_speakers: of the training.
        margin: m in radians.
        scale: s.
    """

    def __init__(self, embedding_size: int, num_speakers: int, margin: float = 0.2, scale: float = 32.0) -> None:
        super().__init__()
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"margin {margin:g} is not within 0 and pi / 2")
        if scale <= 0:
            raise ValueError(f"scale {scale:g} is not positive")
        self.margin, self.scale = margin, scale
        self.weight = torch.nn.Parameter(torch.empty(num_speakers, embedding_size))
        torch.nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: torch.Tensor, speakers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss ``(B,)`` and the cosines ``(B, S)`` of embeddings ``(B, E)`` and speakers ``(B,)``."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight.float()))
            own = cosines.gather(1, speakers[:, None])
            sines = (1 - own.square()).clamp(min=1e-12).sqrt()
            pushed = own * math.cos(self.margin) - sines * math.sin(self.margin)
            pushed = torch.where(own > -math.cos(self.margin), pushed, own - self.margin * math.sin(self.margin))
            logits = cosines.scatter(1, speakers[:, None], pushed) * self.scale
            return F.cross_entropy(logits, speakers, reduction="none"), cosines


class SpeakerModel(MultiTalkerModel):
    """An extractor and the weights of the training speakers, which only the training needs.

    Args:
        encoder: the extractor.
        num_speakers: speakers of the training, each speed of each counted.
        margin, scale: see :class:`AngularMargin`.
    """

    def __init__(self, encoder: SpeakerEncoder, num_speakers: int, margin: float = 0.2, scale: float = 32.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.margin = AngularMargin(encoder.embedding_size, num_speakers, margin, scale)

    def forward(self, speech: torch.Tensor, speech_lengths: torch.Tensor, speaker: torch.Tensor,
                utt_id: Optional[Sequence[str]] = None, **_: Any
                ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Return the loss, statistics and weight of a batch.

        Args:
            speech: ``(B, N)`` samples.
            speech_lengths: ``(B,)``.
            speaker: ``(B, 1)`` numbers of the training speakers.
            utt_id: names of the stretches, told when a loss is not finite.
        """
        loss, cosines = self.margin(self.encoder(speech, speech_lengths), speaker[:, 0])
        finite = torch.isfinite(loss)
        if not finite.all():
            rows = self.finite_rows(finite, utt_id)
            return self.forward(speech[rows], speech_lengths[rows], speaker[rows],
                                None if utt_id is None else [utt_id[i] for i in rows.tolist()])
        stats = {"loss": loss.detach().mean(), "acc": (cosines.argmax(1) == speaker[:, 0]).float().mean()}
        return force_gatherable((loss.mean(), stats, speech.new_tensor(float(len(speech)))), loss.device)
