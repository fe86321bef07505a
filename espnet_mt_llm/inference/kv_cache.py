"""Keys and values of a language model while it answers, in memory with room for more.

transformers puts each new position behind the old ones by copying all of them. Here a position is written where there
is room, and all are copied only when there is none left.
"""

from collections.abc import Callable

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

# Positions that there is room for when memory is taken anew: some, and one for each so many there are.
ROOM, SHARE = 64, 4


class RoomyLayer(DynamicLayer):
    """A layer's keys and values ``(B, heads, P, size)``, the first P positions of larger tensors."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin with no position and no room, for states like these."""
        super().lazy_initialization(key_states, value_states)
        self._set([states[:, :, :0] for states in (key_states, value_states)], 0)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
               ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add positions ``(B, heads, N, size)`` behind those there are, and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.keys.size(2)
        size = old + key_states.size(2)
        if self._whole[0].size(2) < size:
            room = size + ROOM + size // SHARE
            larger = [states.new_empty(*states.shape[:2], room, states.size(3)) for states in self._whole]
            for states, known in zip(larger, (self.keys, self.values)):
                states[:, :, :old] = known
            self._whole = larger
        for states, new in zip(self._whole, (key_states, value_states)):
            states[:, :, old:size] = new
        self._set(self._whole, size)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Put the rows ``beam_idx`` ``(B,)`` in place of those there are."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows ``indices``."""
        self._change(lambda states: states.index_select(0, indices.to(states.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Put each row ``repeats`` times."""
        self._change(lambda states: states.repeat_interleave(repeats, dim=0))

    def _change(self, rows: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self.is_initialized:
            self._set([rows(states) for states in self._whole], self.keys.size(2))

    def _set(self, whole: list[torch.Tensor], size: int) -> None:
        self._whole = whole
        self.keys, self.values = (states[:, :, :size] for states in whole)


def roomy_cache(config: object) -> DynamicCache:
    """Return an empty cache for a model with the ``config`` of transformers; sliding windows stay as they are there."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
