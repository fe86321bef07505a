"""Clips to a padded batch. ESPnet's own collate function imports a package that wants to download data."""

from typing import Sequence

import numpy as np
import torch


def pad_batch(clips: Sequence[tuple[str, dict[str, np.ndarray]]]) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Pad the arrays of each name with zeros at the end and add ``<name>_lengths`` ``(B,)``.

    Args:
        clips: pairs of clip id and arrays ``(N, ...)``.
    """
    batch = {}
    for name in clips[0][1]:
        arrays = [torch.from_numpy(np.ascontiguousarray(arrays[name])) for _, arrays in clips]
        batch[name] = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True)
        batch[f"{name}_lengths"] = torch.tensor([len(a) for a in arrays], dtype=torch.long)
    return [uid for uid, _ in clips], batch
