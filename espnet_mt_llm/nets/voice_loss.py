"""States that tell whose voice they belong to: a help for models too small, or too little trained, to find it."""

from typing import Optional

import torch
from torch.nn import functional as F


class VoiceLoss(torch.nn.Linear):
    """One linear layer from states to the space of speaker embeddings, and how far they are from the talker's voice.

    Over the states h_t that belong to one speaker s(t), whose voice v is the embedding to register s(t) with,

        L = mean over t of 1 - cos(W h_t + b, v_s(t)),

    and with a scale c it has to be told from the other voices of its clip, those of distractors among them:

        L + mean over t of -log softmax over v of c cos(W h_t + b, v), at v_s(t).

    Ours, of no publication. States are the frames that a language model reads, where no speaker stream stands beside
    them: an encoder that knows words alone learns voices. Or they are those of the language model itself where it
    predicts what somebody says, or that it is he: it learns to find the voice, before it learns to tell whose it is.

    Args:
        size, embedding_size: H of the states, E of the voices.
    """

    def __init__(self, size: int, embedding_size: int) -> None:
        super().__init__(size, embedding_size)

    def found(self, states: torch.Tensor) -> torch.Tensor:
        """Return the voices ``(N, E)`` of length 1 that ``states`` ``(N, H)`` tell."""
        return F.normalize(super().forward(states.float()), dim=-1)

    def forward(self, states: torch.Tensor, voices: torch.Tensor, whose: torch.Tensor, scale: Optional[float] = None
                ) -> torch.Tensor:
        """Return the loss, 0 where no state belongs to a voice.

        Args:
            states: ``(B, T, H)``.
            voices: ``(B, S, E)``, padded with zeros; those that nothing of ``whose`` points to are others.
            whose: ``(B, T')``, 0 for none of them, k for the k-th one; beyond the shorter of T and T' nothing counts.
            scale: c; None for the first part alone.
        """
        size = min(states.size(1), whose.size(1))
        clip, place = whose[:, :size].nonzero(as_tuple=True)
        if not len(clip):
            return states.sum() * 0.0
        own = whose[clip, place] - 1
        with torch.autocast(states.device.type, enabled=False):
            found = self.found(states[clip, place])
            voices = F.normalize(voices.float(), dim=-1)
            loss = (1 - (found * voices[clip, own]).sum(-1)).mean()
            if scale is None:
                return loss
            padding = (~voices.any(-1))[clip].scatter(1, own.unsqueeze(1), False)
            cosines = torch.einsum("ne,nse->ns", found, voices[clip])
            return loss + F.cross_entropy((scale * cosines).masked_fill(padding, -torch.inf), own)
