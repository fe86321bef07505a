"""What the models share: batches with a clip whose loss is not finite, token lists of talkers, token errors."""

import logging
from typing import Any, Optional, Sequence

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet_mt_llm.common import UserError
from espnet_mt_llm.nets.serialized_ctc import greedy_ctc


class MultiTalkerModel(AbsESPnetModel):
    """Base of the models: forward → loss, statistics, weight."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def tell_too_long(self, found: torch.Tensor, utt_id: Optional[Sequence[str]]) -> None:
        """Warn, once for each clip, where a talker has more tokens than frames; ``found`` ``(B,)`` booleans."""
        names = {utt_id[row] for row in found.nonzero().flatten().tolist()} - self._told if utt_id is not None else ()
        if names:
            self._told.update(names)
            logging.warning("more tokens than encoder frames, no CTC path, nothing learnt from: %s; stack fewer frames "
                            "(frontend_conf) or use longer tokens", ", ".join(sorted(names)))

    @staticmethod
    def finite_rows(finite: torch.Tensor, utt_id: Optional[Sequence[str]]) -> torch.Tensor:
        """Return the rows of a batch to go on with, and name the others.

        Zero times infinity: a bad clip spoils every gradient even with weight 0, so the others must run again alone.

        Raises:
            UserError: no clip has a finite loss.
        """
        names = [u for u, good in zip(utt_id or map(str, range(len(finite))), finite.tolist()) if not good]
        message = f"the loss is not finite for {', '.join(names)}"
        if not finite.any():
            raise UserError(f"{message}: the whole batch; look at these clips, or lower the learning rate")
        logging.warning("%s; left out of this batch", message)
        return finite.nonzero().squeeze(1)

    def collect_feats(self, speech: torch.Tensor, speech_lengths: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        """Give ESPnet's statistics stage the speech itself; this toolkit needs no statistics pass."""
        return {"feats": speech, "feats_lengths": speech_lengths}


def split_talkers(text: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut each row of ``text`` ``(B, L)`` into its talkers: targets ``(B, K, L')`` by ``sizes`` ``(B, K)``.

    >>> split_talkers(torch.tensor([[5, 6, 7]]), torch.tensor([[1, 2]]))[0].tolist()
    [[[5, 0], [6, 7]]]
    """
    longest = max(1, int(sizes.max()))
    starts = sizes.cumsum(dim=1) - sizes
    steps = torch.arange(longest, device=text.device)
    index = (starts.unsqueeze(-1) + steps).clamp(max=max(0, text.size(1) - 1))
    if not text.size(1):
        return text.new_zeros(*sizes.shape, longest), sizes
    targets = text.unsqueeze(1).expand(-1, sizes.size(1), -1).gather(2, index)
    return targets.masked_fill(steps >= sizes.unsqueeze(-1), 0), sizes


def token_errors(log_probs: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor, target_lengths: torch.Tensor,
                 order: torch.Tensor) -> tuple[int, int]:
    """Count token errors of the best path against the talkers in ``order``, and the reference tokens."""
    import editdistance

    talkers = log_probs.size(1)
    decoded = greedy_ctc(log_probs.flatten(0, 1), lengths.repeat_interleave(talkers))
    errors = 0
    for b, row in enumerate(order.tolist()):
        for k, stream in enumerate(row):
            reference = targets[b, k, : target_lengths[b, k]].tolist()
            errors += editdistance.eval(reference, decoded[b * talkers + stream])
    return errors, int(target_lengths.sum())


def learns(part: torch.nn.Module) -> bool:
    """Say whether any weight of ``part`` is trained."""
    return any(p.requires_grad for p in part.parameters())
