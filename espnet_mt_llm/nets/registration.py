"""Registration of speakers: who is registered with a clip, and their embeddings in the input space of an LLM."""

from typing import Sequence

import torch

from espnet_mt_llm.common import Chance, nearest

MODES = ("none", "match", "over", "mixed")


def choose(mode: str, speakers: Sequence[str], distractors: Sequence[str], rng: Chance, max_distractors: int = 50,
           min_distractors: int = 1) -> list[str]:
    """Choose the registered names of a clip, in random order.

    ``N_rg = 0 | N_gt | N_gt + N_ov`` for No-, Match- and Over-Regist with ``N_ov ~ U{min .. max}`` (arXiv 2508.06372,
    Eq. 1). ``mixed``, for training, draws the mode: a third each.

    Args:
        mode: ``none``, ``match``, ``over`` or ``mixed``.
        speakers: of the clip.
        distractors: names from other sessions; those that speak in the clip are passed over.
        rng: the same seed gives the same names.
        max_distractors, min_distractors: equal for a fixed number; a smaller supply of distractors bounds both.

    Raises:
        ValueError: an unknown mode, a name twice, no distractor where the mode needs one, an empty range.
    """
    if mode not in MODES:
        raise ValueError(f"unknown registration mode '{mode}'; {nearest(mode, MODES)}")
    if len(set(speakers)) != len(speakers):
        raise ValueError(f"a speaker is registered twice: {', '.join(sorted(speakers))}")
    if not 1 <= min_distractors <= max_distractors:
        raise ValueError(f"no number of distractors between {min_distractors} and {max_distractors}")
    others = [name for name in dict.fromkeys(distractors) if name not in set(speakers)]
    if mode in ("over", "mixed") and not others:
        raise ValueError(f"no speaker from another session for the registration mode '{mode}'")
    if mode == "mixed":
        mode = rng.pick(("match", "none", "over"))
    if mode == "none":
        return []
    names = list(speakers)
    if mode == "over":
        high = min(max_distractors, len(others))
        low = min(min_distractors, high)
        names += rng.sample(others, low + rng.index(high - low + 1))
    return rng.sample(names, len(names))


class RegistrationProjector(torch.nn.Linear):
    """One linear layer from speaker embeddings ``(B, R, E)`` to ``(B, R, H)`` (arXiv 2508.06372).

    Args:
        embedding_size, hidden: E, H.
    """

    def __init__(self, embedding_size: int, hidden: int) -> None:
        super().__init__(embedding_size, hidden)
