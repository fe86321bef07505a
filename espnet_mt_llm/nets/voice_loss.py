"""Frames that tell whose voice they have, for a language model that hears no speaker stream."""

import torch
from torch.nn import functional as F


class VoiceLoss(torch.nn.Linear):
    """One linear layer from frames to the space of speaker embeddings, and how far they are from the talker's voice.

    Over the frames t in which one speaker s(t) talks, whose voice v is the embedding that he would be registered with,

        L = mean over t of 1 - cos(W h_t + b, v_s(t)).

    Ours, of no publication: an encoder of little training, which knows words alone, learns voices from the answers of a
    language model only late. Large encoders come with them.

    Args:
        hidden, embedding_size: H of the frames, E of the voices.
    """

    def __init__(self, hidden: int, embedding_size: int) -> None:
        super().__init__(hidden, embedding_size)

    def forward(self, frames: torch.Tensor, voices: torch.Tensor, talking: torch.Tensor) -> torch.Tensor:
        """Return the loss, 0 where nobody with a voice talks alone.

        Args:
            frames: ``(B, T, H)``.
            voices: ``(B, S, E)``.
            talking: ``(B, T')``, 0 for none of them, k for the k-th one; beyond the shorter of T and T' nothing counts.
        """
        size = min(frames.size(1), talking.size(1))
        who = talking[:, :size]
        clip, frame = who.nonzero(as_tuple=True)
        if not len(clip):
            return frames.sum() * 0.0
        with torch.autocast(frames.device.type, enabled=False):
            found = super().forward(frames[clip, frame].float())
            return (1 - F.cosine_similarity(found, voices[clip, who[clip, frame] - 1].float(), dim=-1)).mean()
