"""Keys and values with room, against the cache of transformers."""

import pytest
import torch
from transformers import Qwen2Config
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from espnet_mt_llm.inference.kv_cache import ROOM, RoomyLayer, roomy_cache

CONFIG = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


def states(rows: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of new positions."""
    return torch.randn(rows, 1, positions, 8), torch.randn(rows, 1, positions, 8)


@pytest.mark.parametrize("first", [1, 5, 300])
def test_it_holds_what_the_cache_of_transformers_holds(first: int) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(**CONFIG)
    ours, theirs = roomy_cache(config), DynamicCache(config=config)
    assert all(type(layer) is RoomyLayer for layer in ours.layers)

    def add(rows: int, positions: int) -> None:
        for layer in range(2):
            new = states(rows, positions)
            found, expected = ours.update(*new, layer), theirs.update(*new, layer)
            assert all(torch.equal(a, b) for a, b in zip(found, expected))
        assert ours.get_seq_length() == theirs.get_seq_length()

    add(3, first)
    order = torch.tensor([1, 1, 0, 5, 4, 2])
    for call, argument, rows in (("batch_repeat_interleave", 2, 6), ("reorder_cache", order, 6),
                                 ("batch_select_indices", torch.tensor([5, 0]), 2)):
        for cache in (ours, theirs):
            getattr(cache, call)(argument)
        for _ in range(ROOM + first // 4 + 2):
            add(rows, 1)


def test_a_position_is_written_where_there_is_room() -> None:
    cache = roomy_cache(Qwen2Config(**CONFIG))
    cache.update(*states(2, 4), 0)
    places = set()
    for _ in range(ROOM):
        keys, values = cache.update(*states(2, 1), 0)
        places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) <= 2


def test_sliding_windows_keep_their_own_layers() -> None:
    config = Qwen2Config(**CONFIG, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    kinds = [type(layer) for layer in roomy_cache(config).layers]
    assert kinds == [RoomyLayer, DynamicSlidingWindowLayer]
