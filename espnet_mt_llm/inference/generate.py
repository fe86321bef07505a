"""The answers of a language model to prepared inputs: batches, greedy or beam search, and answers that never end.

A clip's answer does not depend on the clips beside it: each has its own length limit, and clips that are through leave
the batch of a greedy search.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple, Optional

import torch

from espnet_mt_llm.common import UserError
from espnet_mt_llm.models.llm import LLM

# How often, in tokens, answers are looked at for loops.
EVERY = 8
# What may follow a label, in tokens, before the same again is a repetition.
BEHIND_LABEL = 4
# Tokens of an answer that a clip gets however short it is.
CONSTANT = 32


class Answer(NamedTuple):
    """What a model put out for a clip.

    Attributes:
        ids: tokens, without that of the end.
        repeated: it repeated itself endlessly, see :func:`without_loop`.
        capped: it reached its length limit.
    """

    ids: list[int]
    repeated: bool
    capped: bool


class Generator:
    """Writes answers with a language model; its own defaults of generation (``generation_config.json``) do not count.

    Args:
        llm: the language model.
        ends: token ids that end an answer, or fill it up behind its end.
        pad: one of these, to fill up.
        beam_size: 1 for greedy search.
        no_repeat_ngram: ``fallback``: an answer that repeats itself endlessly is written again, and no n tokens may
            occur in it twice; ``always``: they may in no answer, and loops are not looked for (arXiv 2606.13095);
            ``never``: what is repeated is cut off.
        no_repeat_ngram_size: n; for a clip with long labels, which do occur again and again, n is longer than those.
        loop_period, loop_times: an answer repeats itself endlessly when up to ``loop_period`` tokens stand at its end
            ``loop_times`` times in a row.
    """

    def __init__(self, llm: LLM, ends: Collection[int], pad: int, beam_size: int = 1,
                 no_repeat_ngram: str = "fallback", no_repeat_ngram_size: int = 8, loop_period: int = 32,
                 loop_times: int = 8) -> None:
        from transformers import GenerationConfig

        from espnet_mt_llm.inference.kv_cache import roomy_cache

        self.llm, self.beam_size = llm, beam_size
        self.no_repeat_ngram, self.no_repeat_ngram_size = no_repeat_ngram, no_repeat_ngram_size
        self.loop_period, self.loop_times = loop_period, loop_times
        self.ends = sorted({*ends, pad})
        self.cache = partial(roomy_cache, llm.model.config)
        llm.model.generation_config = GenerationConfig(
            do_sample=False, num_beams=beam_size, eos_token_id=self.ends, pad_token_id=pad, bos_token_id=None)

    @torch.no_grad()
    def __call__(self, embeds: torch.Tensor, mask: torch.Tensor, caps: Sequence[int],
                 label_sizes: Optional[Sequence[int]] = None) -> list[Answer]:
        """Return the answers to B inputs.

        Args:
            embeds: ``(B, P, H)``, padded in front.
            mask: ``(B, P)``, 1 inside.
            caps: the most tokens of each answer.
            label_sizes: tokens of the longest label of each clip.
        """
        sizes = [max(self.no_repeat_ngram_size, size + BEHIND_LABEL) for size in label_sizes or [0] * len(caps)]
        if self.no_repeat_ngram == "always":
            said = map(self._until_end, self._search(embeds, mask, caps, sizes, 0), caps)
            return [Answer(ids, False, len(ids) >= cap) for ids, cap in zip(said, caps)]
        answers = list(map(self._answer, self._search(embeds, mask, caps, None, self.loop_times), caps))
        again = [i for i, answer in enumerate(answers) if answer.repeated]
        if again and self.no_repeat_ngram == "fallback":
            # Fewer clips, perhaps shorter ones: padding that none of them needs goes.
            first = int(mask[again].sum(1).max())
            found = self._search(embeds[again, -first:], mask[again, -first:], [caps[i] for i in again],
                                 [sizes[i] for i in again], 0)
            for i, ids in zip(again, found):
                said = self._until_end(ids, caps[i])
                answers[i] = Answer(said, True, len(said) >= caps[i])
        return answers

    def _until_end(self, ids: Sequence[int], cap: int) -> list[int]:
        end = next((i for i, token in enumerate(ids[:cap]) if token in self.ends), cap)
        return list(ids[:end])

    def _answer(self, ids: Sequence[int], cap: int) -> Answer:
        said = self._until_end(ids, cap)
        capped = len(said) >= cap
        # One that came to its end by itself is not endless, whatever stands there; others end where they are looked at.
        kept = without_loop(said, self.loop_period, self.loop_times) if capped or len(said) % EVERY == 0 else said
        looped = len(kept) < len(said)
        return Answer(kept, looped, not looped and capped)

    def _search(self, embeds: torch.Tensor, mask: torch.Tensor, caps: Sequence[int], sizes: Optional[Sequence[int]],
                loop_times: int) -> list[list[int]]:
        """Return the tokens of each answer and, behind its end, whatever fills it up."""
        limit = torch.tensor(caps, device=embeds.device)
        ngrams = None if sizes is None else torch.tensor(sizes, device=embeds.device)
        stop = _Stop(torch.tensor(self.ends, device=embeds.device), self.loop_period, loop_times)
        if self.beam_size == 1:
            return self._greedy(embeds, mask, limit, ngrams, stop)
        return self._beam(embeds, mask, limit, ngrams, stop)

    def _beam(self, embeds: torch.Tensor, mask: torch.Tensor, limit: torch.Tensor, ngrams: Optional[torch.Tensor],
              stop: "_Stop") -> list[list[int]]:
        """Search with a beam; its rows share what the model makes of their input, all but the last position."""
        cache = self.cache()
        places = (mask.cumsum(1) - 1).clamp(min=0)
        self.llm.model.base_model(inputs_embeds=embeds[:, :-1], attention_mask=mask[:, :-1],
                                  position_ids=places[:, :-1], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(self.beam_size)
        return self.llm.model.generate(
            inputs_embeds=embeds[:, -1:].expand(-1, mask.size(1), -1), attention_mask=mask, past_key_values=cache,
            max_new_tokens=int(limit.max()), stopping_criteria=[lambda ids, _: stop.early(ids, limit)],
            logits_processor=[] if ngrams is None else [_NoRepeat(ngrams)]).tolist()

    def _greedy(self, embeds: torch.Tensor, mask: torch.Tensor, limit: torch.Tensor, ngrams: Optional[torch.Tensor],
                stop: "_Stop") -> list[list[int]]:
        """Search for the best token each time; whenever half of the clips are through, the others go on alone."""
        answers: list[list[int]] = [[]] * len(embeds)
        clips = torch.arange(len(embeds), device=embeds.device)
        ids, cache = clips.new_zeros(len(embeds), 0), self.cache()
        while len(clips):
            out = self.llm.model.generate(
                input_ids=ids, inputs_embeds=embeds, attention_mask=mask, past_key_values=cache,
                max_new_tokens=int(limit.max()) - ids.size(1), return_dict_in_generate=True,
                stopping_criteria=[lambda found, _: stop.all_or_half(found, limit)],
                logits_processor=[] if ngrams is None else [_NoRepeat(ngrams)])
            ended = stop.ended(out.sequences, limit)
            for i in ended.nonzero().flatten().tolist():
                answers[int(clips[i])] = out.sequences[i].tolist()
            rest = (~ended).nonzero().flatten()
            new = out.sequences.size(1) - ids.size(1)
            ids, clips, limit = out.sequences[rest], clips[rest], limit[rest]
            ngrams = None if ngrams is None else ngrams[rest]
            mask = torch.cat([mask[rest], mask.new_ones(len(rest), new)], dim=1)
            cache.batch_select_indices(rest)
            # The cache has all but the last token: of these embeddings no other is read.
            embeds = self.llm.embed(ids[:, -1:]).expand(-1, mask.size(1), -1)
        return answers


class _Stop:
    """When answers ``(R, U)`` end; the rows of a clip, candidates of a beam search, stand together.

    Args:
        ends: token ids.
        loop_period, loop_times: see :func:`without_loop`; 0 times: loops are not looked for.
    """

    def __init__(self, ends: torch.Tensor, loop_period: int, loop_times: int) -> None:
        self.ends, self.loop_period, self.loop_times = ends, loop_period, loop_times

    def early(self, ids: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        """Say which rows end without an end token: at the ``limit`` ``(B,)`` of their clip, or in a loop."""
        ended = ids.size(1) >= limit.repeat_interleave(len(ids) // len(limit))
        if self.loop_times and ids.size(1) % EVERY == 0:
            ended = ended | in_loop(ids, self.loop_period, self.loop_times)
        return ended

    def ended(self, ids: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        """Say which rows are through ``(R,)``; what fills them up from then on is an end token."""
        return (ids[:, -1:] == self.ends).any(1) | self.early(ids, limit)

    def all_or_half(self, ids: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        """As :meth:`ended`, and as if all were through when half of them are."""
        ended = self.ended(ids, limit)
        return ended | (2 * ended.sum() >= len(ended))


class _NoRepeat:
    """Forbids a token that would make the last n tokens of a row ones that it already has.

    transformers has this with one n for all rows, and row by row.

    Args:
        sizes: n of each clip, ``(B,)``; the rows of a clip stand together.
    """

    def __init__(self, sizes: torch.Tensor) -> None:
        self.sizes = sizes

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return ``scores`` ``(R, V)`` with minus infinity at these tokens, for the tokens ``(R, U)`` so far."""
        sizes = self.sizes.repeat_interleave(len(ids) // len(self.sizes))
        scores = scores.clone()
        for size in self.sizes.unique().tolist():
            if ids.size(1) < size:
                continue
            rows = (sizes == size).nonzero().flatten()
            known = ids[rows].unfold(1, size, 1)
            last = ids[rows, ids.size(1) - size + 1:]
            row, place = (known[:, :, :-1] == last.unsqueeze(1)).all(2).nonzero(as_tuple=True)
            scores[rows[row], known[row, place, -1]] = float("-inf")
        return scores


def in_loop(ids: torch.Tensor, period: int, times: int) -> torch.Tensor:
    """Say which rows of ``(R, U)`` end with the same tokens, ``period`` at most, ``times`` times in a row.

    >>> in_loop(torch.tensor([[9, 1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 5, 5], [1, 2, 3, 4, 5, 5, 4]]), 2, 3).tolist()
    [True, True, False]
    """
    found = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for p in range(1, min(period, ids.size(1) // times) + 1):
        tail = ids[:, -p * times:]
        found |= (tail[:, p:] == tail[:, :-p]).all(1)
    return found


def without_loop(ids: Sequence[int], period: int, times: int) -> list[int]:
    """Return ``ids``; where they end as :func:`in_loop` says, the loop is left once.

    >>> without_loop([9, 1, 2, 1, 2, 1, 2], 2, 3), without_loop([9, 1, 2, 1, 2, 1], 2, 3)
    ([9, 1, 2], [9, 1, 2, 1, 2, 1])
    """
    ids = list(ids)
    for p in range(1, min(period, len(ids) // times) + 1):
        same = 0
        while same + p < len(ids) and ids[-1 - same] == ids[-1 - same - p]:
            same += 1
        if same >= p * (times - 1):
            return ids[: len(ids) - same]
    return ids


def cap_of(seconds: float, tokens_per_second: float, max_new_tokens: int) -> int:
    """Return the most tokens of the answer to a clip.

    >>> cap_of(10.0, 20.0, 1024), cap_of(60.0, 20.0, 1024)
    (232, 1024)
    """
    return min(max_new_tokens, CONSTANT + int(seconds * tokens_per_second))


def check_room(clip: str, seconds: float, positions: int, prompt_size: int, cap: int, max_positions: int) -> None:
    """Refuse a clip that, with its answer, needs more positions than the language model has.

    Args:
        positions: of prompt and audio.
        prompt_size: those that are not of the audio.
        cap: the most tokens of the answer.

    Raises:
        UserError: it does; the length that fits is named.
    """
    if positions + cap <= max_positions:
        return
    fixed = prompt_size + CONSTANT
    fits = max(0.0, seconds * (max_positions - fixed) / max(1, positions + cap - fixed))
    raise UserError(f"clip '{clip}' of {seconds:.1f} s takes {positions} positions and its answer up to {cap}, the "
                    f"language model has {max_positions}, enough for about {fits:.1f} s; cut shorter clips (stage "
                    "clips, --max_clip), register fewer speakers, or lower tokens_per_second")
