"""Layouts against a builder that goes frame by frame, their inverses, lengths, gradients and cost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_mt_llm.nets.layouts import LAYOUTS, FeatureConcat, Interleave, Layout, Semantic, TimeConcat

H = 4
LENGTHS = st.lists(st.integers(0, 47), min_size=1, max_size=4).filter(max)
RATIOS = st.sampled_from([1.0, 0.5, 0.25, 0.1])
ANCHORS = [[k] if k < 10 else [k // 10, k % 10] for k in range(1, 48)]


def batch_of(lengths: list, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Streams with anything in the padding."""
    generator = torch.Generator().manual_seed(seed)
    semantic, speaker = torch.randn(2, len(lengths), max(lengths), H, generator=generator)
    return semantic, speaker, torch.tensor(lengths)


def embed(layout: Layout) -> torch.Tensor | None:
    """Embeddings of the anchors as an LLM would give them."""
    table = torch.arange(50.0)[:, None] + torch.arange(H) / 10
    return table[layout.anchor_ids] if len(layout.anchor_ids) else None


def interleaved(layout: Interleave, semantic: torch.Tensor, speaker: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """One clip frame by frame, (kind, row) for each position."""
    rows, group = [], round(1 / layout.speaker_ratio)
    for begin in range(0, len(semantic), layout.chunk):
        end = min(begin + layout.chunk, len(semantic))
        rows += [("marker", layout.semantic_start), *(("semantic", semantic[t]) for t in range(begin, end)),
                 ("marker", layout.speaker_start)]
        rows += [("speaker", speaker[t: min(t + group, end)].mean(0)) for t in range(begin, end, group)]
    return rows


def time_concatenated(layout: TimeConcat, semantic: torch.Tensor, speaker: torch.Tensor) -> list:
    """One clip frame by frame, (kind, row) for each position."""
    rows, table = [], torch.arange(50.0)[:, None] + torch.arange(H) / 10
    for marker, kind, stream in ((layout.semantic_start, "semantic", semantic),
                                 (layout.speaker_start, "speaker", speaker)):
        rows.append(("marker", marker))
        for t, frame in enumerate(stream):
            rows.append((kind, frame))
            if (t + 1) % layout.chunk == 0 or t + 1 == len(stream):
                rows += [("anchor", table[i]) for i in ANCHORS[t // layout.chunk]]
    return rows


def compare(layout: Layout, reference, lengths: list) -> None:
    """Positions, lengths, padding and the inverse of a batch against the reference."""
    semantic, speaker, sizes = batch_of(lengths)
    positions, found = layout(semantic, speaker, sizes, embed(layout))
    assert positions.shape == (len(lengths), layout.length(max(lengths)), H)
    for b, n in enumerate(lengths):
        rows = reference(layout, semantic[b, :n], speaker[b, :n])
        assert len(rows) == found[b] == layout.length(n)
        if rows:
            torch.testing.assert_close(positions[b, : len(rows)], torch.stack([row for _, row in rows]))
        assert not positions[b, len(rows):].any()
        # Without the speaker stream and what tells it apart, the positions are those of the layout 'semantic'.
        alone = [row for kind, row in rows if kind == "semantic"]
        assert len(alone) == Semantic(H).length(n)
    back, spoken = layout.split(positions, sizes)
    assert torch.equal(back, Semantic(H)(semantic, None, sizes)[0])
    for b, n in enumerate(lengths):
        rows = [row for kind, row in reference(layout, semantic[b, :n], speaker[b, :n]) if kind == "speaker"]
        torch.testing.assert_close(spoken[b, : len(rows)], torch.stack(rows) if rows else spoken[b, :0])
        assert not spoken[b, len(rows):].any()


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 25), RATIOS)
def test_interleave(lengths: list, chunk: int, ratio: float) -> None:
    layout = Interleave(H, chunk, ratio)
    layout.speaker_ratio = ratio
    compare(layout, interleaved, lengths)


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 25))
def test_time_concat(lengths: list, chunk: int) -> None:
    compare(TimeConcat(H, ANCHORS, chunk), time_concatenated, lengths)


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 25))
def test_split_is_the_inverse_of_interleave(lengths: list, chunk: int) -> None:
    semantic, speaker, sizes = batch_of(lengths)
    layout = Interleave(H, chunk)
    valid = (torch.arange(max(lengths)) < sizes[:, None])[..., None]
    for stream, back in zip((semantic, speaker), layout.split(layout(semantic, speaker, sizes)[0], sizes)):
        assert torch.equal(back, stream * valid)


@pytest.mark.parametrize("ratio, frames, positions", [(1, 20, 1750), (0.5, 10, 833 + 84 + 417), (0.25, 5, 1126),
                                                      (0.1, 2, 833 + 84 + 84)])
def test_positions_of_fifty_seconds(ratio: float, frames: int, positions: int) -> None:
    """SYSTEMS D.1: 833 frames of 60 ms in 42 chunks."""
    layout = Interleave(H, 20, ratio)
    assert layout.length(20) == 22 + frames and layout.length(833) == positions


def test_anchors_of_fifty_seconds() -> None:
    # 42 anchors, of which 33 have two digits, in each stream.
    assert TimeConcat(H, ANCHORS).length(833) == 2 * (1 + 833 + 9 + 2 * 33)
    assert TimeConcat(H, ANCHORS).length(20) == TimeConcat(H, ANCHORS).length(19) + 2 == 2 * 22


def test_feature_concat_begins_as_the_semantic_frames() -> None:
    layout, (semantic, lengths) = FeatureConcat(H), (torch.randn(2, 5, H), torch.tensor([5, 5]))
    assert torch.allclose(layout(semantic, torch.zeros_like(semantic), lengths)[0], semantic, atol=1e-6)
    speaker = torch.randn(2, 5, H)
    added = layout(semantic, speaker, lengths)[0] - semantic
    assert torch.allclose(added.norm(dim=-1), speaker.norm(dim=-1), rtol=1e-4)


def test_feature_concat() -> None:
    layout = FeatureConcat(H)
    semantic, speaker, lengths = batch_of([7, 3])
    positions, found = layout(semantic, speaker, lengths)
    assert found.tolist() == [7, 3] == [layout.length(n) for n in (7, 3)]
    assert not positions[1, 3:].any()
    weight, bias = layout.fusion.weight, layout.fusion.bias
    torch.testing.assert_close(positions[0], semantic[0] @ weight[:, :H].T + speaker[0] @ weight[:, H:].T + bias)


@pytest.mark.parametrize("layout, streams", [(Interleave(H, 5), 2), (TimeConcat(H, ANCHORS, 5), 2)])
def test_markers_and_frames_get_the_gradients_of_their_positions(layout: Layout, streams: int) -> None:
    semantic, speaker, lengths = batch_of([12, 7])
    semantic.requires_grad_(), speaker.requires_grad_()
    anchors = embed(layout)
    if anchors is not None:
        anchors.requires_grad_()
    positions, sizes = layout(semantic, speaker, lengths, anchors)
    positions.sum().backward()
    interleave = isinstance(layout, Interleave)
    for marker in (layout.semantic_start, layout.speaker_start):
        assert marker.grad.tolist() == [5.0 if interleave else 2.0] * H  # 3 and 2 chunks, or one marker a clip
    for stream in (semantic, speaker):
        assert stream.grad[0].eq(1).all() and stream.grad[1, :7].eq(1).all() and not stream.grad[1, 7:].any()
    if anchors is not None:
        assert anchors.grad[:, 0].tolist() == [4.0, 4.0, 2.0] + [0.0] * (len(anchors) - 3)


def test_pooled_frames_share_their_gradient() -> None:
    semantic, speaker, lengths = batch_of([25, 22])
    speaker.requires_grad_()
    Interleave(H, 20, 0.25)(semantic, speaker, lengths)[0].sum().backward()
    assert torch.equal(speaker.grad[0, :, 0], torch.tensor([0.25] * 24 + [1.0]))
    assert torch.equal(speaker.grad[1, :, 0], torch.tensor([0.25] * 20 + [0.5] * 2 + [0.0] * 3))


@pytest.mark.parametrize("layout", [Interleave(H, 20, 0.5), TimeConcat(H, ANCHORS), FeatureConcat(H), Semantic(H)])
def test_positions_do_not_depend_on_the_batch(layout: Layout) -> None:
    semantic, speaker, lengths = batch_of([41, 40, 19])
    speaker = speaker if layout.uses_speaker else None
    together, sizes = layout(semantic, speaker, lengths, embed(layout))
    for b, n in enumerate(lengths.tolist()):
        cut = None if speaker is None else speaker[b: b + 1, :n]
        alone, _ = layout(semantic[b: b + 1, :n], cut, lengths[b: b + 1], embed(layout))
        torch.testing.assert_close(together[b, : sizes[b]], alone[0])


class Operations(TorchDispatchMode):
    """Record the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", [Interleave(H), Interleave(H, 20, 0.25), TimeConcat(H, ANCHORS)])
def test_one_lookup_whatever_the_length_and_the_batch(layout: Layout) -> None:
    recorded = []
    for lengths in ([23] * 2, [823] * 8):
        with Operations() as operations:
            layout(*batch_of(lengths), embed(layout))
        recorded.append(operations.names)
    assert recorded[0].count("aten.embedding.default") == 1
    assert recorded[0] == recorded[1]


def test_half_precision_stays() -> None:
    semantic, speaker, lengths = batch_of([9, 4])
    positions, _ = Interleave(H, 5)(semantic.bfloat16(), speaker.bfloat16(), lengths)
    assert positions.dtype == torch.bfloat16


def test_markers_are_trained_and_anchors_are_not_saved() -> None:
    assert set(dict(TimeConcat(H, ANCHORS).named_parameters())) == {"semantic_start", "speaker_start"}
    assert set(TimeConcat(H, ANCHORS).state_dict()) == {"semantic_start", "speaker_start"}
    assert LAYOUTS["interleave"] is Interleave and not list(Semantic(H).parameters())


@pytest.mark.parametrize("call, message", [
    (lambda: Interleave(H, 0), "chunk: 0"),
    (lambda: Interleave(H, 20, 0.7), "speaker_ratio: 0.7"),
    (lambda: Interleave(H, 20, 0), "the layout is 'semantic'"),
    (lambda: TimeConcat(H, [[1], []]), "an anchor without a token"),
    (lambda: TimeConcat(H, [[1], [2]], 5).length(11), "3 chunks, there are 2 anchors"),
    (lambda: TimeConcat(H, [[1], [2]], 5)(*batch_of([5])), "its 2 anchor_ids"),
    (lambda: Interleave(H)(batch_of([5])[0], None, torch.tensor([5])), "Interleave takes a speaker stream"),
    (lambda: Semantic(H)(*batch_of([5])), "Semantic takes no speaker stream"),
    (lambda: Interleave(H)(batch_of([5])[0], batch_of([4])[0], torch.tensor([5])), "the streams differ"),
])
def test_wrong_values_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
