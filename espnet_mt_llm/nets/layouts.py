"""Layouts: how semantic and speaker frames stand before an LLM."""

from abc import ABC, abstractmethod
from typing import Optional, Sequence

import torch
from torch.nn import functional as F

from espnet_mt_llm.common import is_whole
from espnet_mt_llm.nets.masks import length_mask
from espnet_mt_llm.nets.runs import run_index


class Layout(torch.nn.Module, ABC):
    """Two streams of frames at one rate to one sequence of positions.

    Attributes:
        uses_speaker: whether there is a speaker stream.
        anchor_ids: ``(A,)`` token ids whose LLM embeddings the layout needs; none for most.
    """

    uses_speaker = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor_ids", torch.zeros(0, dtype=torch.long), persistent=False)

    @abstractmethod
    def length(self, frames: int) -> int:
        """Return the positions of a clip of ``frames`` semantic frames."""

    @abstractmethod
    def forward(self, semantic: torch.Tensor, speaker: Optional[torch.Tensor], lengths: torch.Tensor,
                anchors: Optional[torch.Tensor] = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(B, P, H)``, zero beyond the lengths ``(B,)``, which are returned too.

        Args:
            semantic: ``(B, T, H)``.
            speaker: ``(B, T, H)``; None without a speaker stream.
            lengths: ``(B,)`` frames of both.
            anchors: ``(A, H)`` LLM embeddings of ``anchor_ids``.

        Raises:
            ValueError: streams that do not fit.
        """

    def check(self, semantic: torch.Tensor, speaker: Optional[torch.Tensor]) -> None:
        """Refuse streams that do not fit each other or the layout."""
        if self.uses_speaker != (speaker is not None):
            raise ValueError(f"{type(self).__name__} takes {'a' if self.uses_speaker else 'no'} speaker stream")
        if speaker is not None and speaker.shape != semantic.shape:
            raise ValueError(f"the streams differ: semantic {tuple(semantic.shape)}, speaker {tuple(speaker.shape)}")


class Semantic(Layout):
    """``a_1 … a_T``: the semantic frames alone.

    Args:
        size: H.
    """

    uses_speaker = False

    def __init__(self, size: int) -> None:
        super().__init__()

    def length(self, frames: int) -> int:
        """Return T."""
        return frames

    def forward(self, semantic: torch.Tensor, speaker: Optional[torch.Tensor], lengths: torch.Tensor,
                anchors: Optional[torch.Tensor] = None) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Layout`."""
        self.check(semantic, speaker)
        return semantic.masked_fill(~length_mask(lengths, semantic.size(1)).unsqueeze(-1), 0.0), lengths


class FeatureConcat(Layout):
    """``Linear([a_t; s_t])``: both frames in one position.

    Args:
        size: H.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.fusion = torch.nn.Linear(2 * size, size)
        with torch.no_grad():
            # Begins as the semantic frame, which the language model reads already, and a turned speaker frame beside.
            self.fusion.weight[:, :size] = torch.eye(size)
            torch.nn.init.orthogonal_(self.fusion.weight[:, size:])
            self.fusion.bias.zero_()

    def length(self, frames: int) -> int:
        """Return T."""
        return frames

    def forward(self, semantic: torch.Tensor, speaker: Optional[torch.Tensor], lengths: torch.Tensor,
                anchors: Optional[torch.Tensor] = None) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Layout`."""
        self.check(semantic, speaker)
        fused = self.fusion(torch.cat([semantic, speaker], dim=-1))
        return fused.masked_fill(~length_mask(lengths, semantic.size(1)).unsqueeze(-1), 0.0), lengths


class Gathered(Layout):
    """Base of the layouts that put frames and markers one after the other.

    All positions come from one bank of rows in one lookup::

        0 | <semantic_start> | <speaker_start> | anchors | semantic frames of all clips | speaker frames of all clips

    A clip is a sequence of *runs*, of successive rows of the bank; row 0 is the padding.

    Args:
        size: H.
        chunk: frames in a chunk.
    """

    def __init__(self, size: int, chunk: int = 20) -> None:
        super().__init__()
        if not is_whole(chunk) or chunk < 1:
            raise ValueError(f"chunk: {chunk!r} is no whole number of at least 1")
        self.chunk = chunk
        # As small as the token embeddings of an LLM (the initializer_range of Qwen2.5).
        self.semantic_start = torch.nn.Parameter(torch.randn(size) * 0.02)
        self.speaker_start = torch.nn.Parameter(torch.randn(size) * 0.02)

    @abstractmethod
    def runs(self, lengths: torch.Tensor, semantic: torch.Tensor, speaker: torch.Tensor, frames: int
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return first rows and sizes ``(B, R)`` of the runs of each clip.

        Args:
            lengths: ``(B,)``.
            semantic, speaker: ``(B, 1)``, rows of each clip's first frames.
            frames: T.
        """

    def speaker_rows(self, frames: int) -> int:
        """Return the frames of the speaker stream in the bank for each clip of T = ``frames``."""
        return frames

    def pool(self, speaker: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the speaker stream ``(B, speaker_rows(T), H)`` as it goes into the bank."""
        return speaker

    def forward(self, semantic: torch.Tensor, speaker: Optional[torch.Tensor], lengths: torch.Tensor,
                anchors: Optional[torch.Tensor] = None) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Layout`."""
        self.check(semantic, speaker)
        if len(self.anchor_ids) != (0 if anchors is None else len(anchors)):
            raise ValueError(f"the layout needs the embeddings of its {len(self.anchor_ids)} anchor_ids")
        index, inside = self._index(lengths, semantic.size(1))
        markers = torch.stack([torch.zeros_like(self.semantic_start), self.semantic_start, self.speaker_start])
        rows = [markers, *(() if anchors is None else (anchors,)), semantic.flatten(0, 1),
                self.pool(speaker, lengths).flatten(0, 1)]
        bank = torch.cat([row.to(semantic.dtype) for row in rows])
        return F.embedding(index, bank, padding_idx=0), inside.sum(1)

    def split(self, positions: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the semantic ``(B, T, H)`` and the pooled speaker frames of what :meth:`forward` made.

        Args:
            positions: ``(B, P, H)``.
            lengths: ``(B,)`` frames; T is the longest.
        """
        batch, frames = len(lengths), int(lengths.max())
        index, _ = self._index(lengths, frames)
        first, second = self._first(), batch * frames
        bank = positions.new_zeros(first + second + batch * self.speaker_rows(frames), positions.size(-1))
        bank = bank.index_copy(0, index.flatten(), positions[:, : index.size(1)].flatten(0, 1))
        semantic, speaker = bank[first: first + second], bank[first + second:]
        return semantic.unflatten(0, (batch, frames)), speaker.unflatten(0, (batch, -1))

    def _first(self) -> int:
        """Row of the first frame."""
        return 3 + len(self.anchor_ids)

    def _index(self, lengths: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the row of each position ``(B, P)``, and which of them are inside ``(B, P)``."""
        clip = torch.arange(len(lengths), device=lengths.device).unsqueeze(1)
        first = self._first()
        starts, sizes = self.runs(lengths, first + clip * frames,
                                  first + len(lengths) * frames + clip * self.speaker_rows(frames), frames)
        return run_index(starts, sizes)

    def _chunks(self, lengths: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first frame of each chunk ``(C,)``, and its frames in each clip ``(B, C)``."""
        begins = torch.arange(0, frames, self.chunk, device=lengths.device)
        return begins, (lengths.unsqueeze(1) - begins).clamp(0, self.chunk)


class TimeConcat(Gathered):
    """All semantic frames, then all speaker frames, with the same anchors in both (after arXiv 2601.06896)::

        <semantic_start> a_1 … a_20 "1" a_21 … a_40 "2" … <speaker_start> s_1 … s_20 "1" s_21 … s_40 "2" …

    An anchor ends every chunk, the shorter one at the end of the clip too.

    Args:
        size: H.
        anchor_ids: for each anchor the token ids of its number, from 1; as many as the longest clip has chunks.
        chunk: frames between anchors.
    """

    def __init__(self, size: int, anchor_ids: Sequence[Sequence[int]], chunk: int = 20) -> None:
        super().__init__(size, chunk)
        if not all(len(ids) for ids in anchor_ids):
            raise ValueError("anchor_ids: an anchor without a token")
        self.sizes = [len(ids) for ids in anchor_ids]
        self.register_buffer("anchor_ids", torch.tensor([i for ids in anchor_ids for i in ids], dtype=torch.long),
                             persistent=False)
        self.register_buffer("anchor_sizes", torch.tensor(self.sizes, dtype=torch.long), persistent=False)

    def length(self, frames: int) -> int:
        """Return ``2 (1 + T + tokens of ceil(T / chunk) anchors)``.

        Raises:
            ValueError: there are fewer anchors than chunks.
        """
        chunks = -(-frames // self.chunk)
        if chunks > len(self.sizes):
            raise ValueError(f"a clip of {frames} frames has {chunks} chunks, there are {len(self.sizes)} anchors")
        return 2 * (1 + frames + sum(self.sizes[:chunks]))

    def runs(self, lengths: torch.Tensor, semantic: torch.Tensor, speaker: torch.Tensor, frames: int
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Gathered`."""
        self.length(frames)  # raises where there are fewer anchors than chunks
        begins, sizes = self._chunks(lengths, frames)
        tokens = self.anchor_sizes[: len(begins)]
        anchors = (3 + tokens.cumsum(0) - tokens).expand_as(sizes)
        one = torch.ones_like(semantic)
        pairs = torch.stack([sizes, tokens * (sizes > 0)], dim=2).flatten(1)
        starts = [start for marker, stream in ((one, semantic), (2 * one, speaker))
                  for start in (marker, torch.stack([stream + begins, anchors], dim=2).flatten(1))]
        return torch.cat(starts, dim=1), torch.cat([one, pairs, one, pairs], dim=1)


class Interleave(Gathered):
    """Chunks of both streams in turn (arXiv 2606.13095, temporal interleave)::

        <semantic_start> a_1 … a_20 <speaker_start> s_1 … s_20 <semantic_start> a_21 … a_40 <speaker_start> s_21 …

    The last chunk is shorter, in both streams alike. With a speaker ratio of 1/k each k speaker frames of a chunk give
    way to their mean (20 frames are 10, 5 or 2 at .5, .25 and .1), so that none is lost; what is left at the end of a
    chunk has a mean of its own.

    Args:
        size: H.
        chunk: semantic frames in a chunk.
        speaker_ratio: speaker frames for each semantic one: 1 over a whole number.
    """

    def __init__(self, size: int, chunk: int = 20, speaker_ratio: float = 1.0) -> None:
        super().__init__(size, chunk)
        if not 0 < speaker_ratio <= 1 or abs(speaker_ratio * round(1 / speaker_ratio) - 1) > 0.02:
            raise ValueError(f"speaker_ratio: {speaker_ratio} is not 1 over a whole number; without speaker frames "
                             "the layout is 'semantic'")
        self.stride = round(1 / speaker_ratio)

    def length(self, frames: int) -> int:
        """Return ``T + 2 ceil(T / chunk)`` and the speaker frames."""
        return frames + 2 * -(-frames // self.chunk) + self._speaker_frames(frames)

    def _speaker_frames(self, frames: int) -> int:
        full, rest = divmod(frames, self.chunk)
        return full * -(-self.chunk // self.stride) - (-rest // self.stride)

    def speaker_rows(self, frames: int) -> int:
        """See :class:`Gathered`."""
        return self._speaker_frames(frames)

    def pool(self, speaker: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """See :class:`Gathered`."""
        if self.stride == 1:
            return speaker
        frames = speaker.size(1)
        inside = length_mask(lengths, frames).unsqueeze(-1)
        sums = self._sum_groups(speaker.masked_fill(~inside, 0.0))
        counts = self._sum_groups(inside.to(speaker.dtype)).clamp(min=1)
        return (sums / counts)[:, : self.speaker_rows(frames)]

    def _sum_groups(self, frames: torch.Tensor) -> torch.Tensor:
        """Sum each ``stride`` frames of each chunk of ``(B, T, H)``."""
        frames = F.pad(frames, (0, 0, 0, -frames.size(1) % self.chunk)).unflatten(1, (-1, self.chunk))
        frames = F.pad(frames, (0, 0, 0, -self.chunk % self.stride))
        return frames.unflatten(2, (-1, self.stride)).sum(3).flatten(1, 2)

    def runs(self, lengths: torch.Tensor, semantic: torch.Tensor, speaker: torch.Tensor, frames: int
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Gathered`."""
        begins, sizes = self._chunks(lengths, frames)
        per_chunk = -(-self.chunk // self.stride)
        one, marker = torch.ones_like(sizes), (sizes > 0).to(sizes.dtype)
        starts = torch.stack([one, semantic + begins, 2 * one, speaker + begins // self.chunk * per_chunk], dim=2)
        counts = torch.stack([marker, sizes, marker, (sizes + self.stride - 1) // self.stride], dim=2)
        return starts.flatten(1), counts.flatten(1)


LAYOUTS = {"semantic": Semantic, "feature_concat": FeatureConcat, "time_concat": TimeConcat, "interleave": Interleave}
