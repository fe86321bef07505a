"""Answers of a language model: a batch against clip by clip and against a search without a cache; endless answers."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mt_llm.common import UserError
from espnet_mt_llm.inference import generate
from espnet_mt_llm.inference.generate import Generator, _NoRepeat, _Stop, cap_of, check_room, in_loop, without_loop
from espnet_mt_llm.models.llm import LLM

END, PAD, VOCABULARY = 1, 0, 24


@pytest.fixture(scope="module")
def llm() -> LLM:
    """A small Qwen2 whose weights are large enough that answers differ, with its own defaults of generation."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(3)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.4, tie_word_embeddings=False)).eval()
    # What a published chat model brings along must not count.
    model.generation_config = GenerationConfig(do_sample=True, repetition_penalty=1.8, temperature=0.1, top_k=3,
                                               eos_token_id=9, max_length=21)
    return LLM(model, published=False)


def inputs(sizes: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings padded in front, with something in the padding that must not matter."""
    torch.manual_seed(seed)
    mask = (torch.arange(max(sizes)) >= max(sizes) - torch.tensor(sizes).unsqueeze(1)).long()
    return torch.randn(len(sizes), max(sizes), 32), mask


@torch.no_grad()
def plain_greedy(llm: LLM, embeds: torch.Tensor, cap: int) -> list[int]:
    """Greedy search clip by clip, the whole input again for every token."""
    ids: list[int] = []
    while len(ids) < cap:
        new = llm.embed(torch.tensor(ids, dtype=torch.long)).view(1, len(ids), 32)
        hidden = llm.hidden(torch.cat([embeds[None], new], dim=1))
        ids.append(int(llm.logits(hidden[0, -1]).argmax()))
        if ids[-1] in (END, PAD):
            return ids[:-1]
    return ids


@torch.no_grad()
def plain_beam(llm: LLM, embeds: torch.Tensor, cap: int, beam: int) -> list[int]:
    """Beam search without a cache; what ended is ranked by its mean log probability, the end counted."""
    running, ended = [(0.0, [])], []
    for length in range(1, cap + 1):
        found = []
        for score, ids in running:
            new = llm.embed(torch.tensor(ids, dtype=torch.long)).view(1, len(ids), 32)
            log_probs = llm.logits(llm.hidden(torch.cat([embeds[None], new], dim=1))[0, -1]).log_softmax(-1)
            found += [(score + float(p), [*ids, token]) for token, p in enumerate(log_probs)]
        found.sort(key=lambda item: -item[0])
        through = [ids[-1] in (END, PAD) or length == cap for _, ids in found]
        ended += [(score / length, ids) for (score, ids), done in zip(found[:beam], through) if done]
        ended = sorted(ended, key=lambda item: -item[0])[:beam]
        running = [item for item, done in zip(found, through) if not done][:beam]
        if not running or len(ended) == beam and running[0][0] / length <= ended[-1][0]:
            break
    return [i for i in ended[0][1] if i not in (END, PAD)]


SIZES = [7, 19, 3, 12, 30, 8, 25, 5]
CAPS = [30, 12, 40, 25, 18, 33, 6, 28]


@pytest.mark.parametrize("beam", [1, 3])
def test_batch_is_single(llm: LLM, beam: int) -> None:
    embeds, mask = inputs(SIZES)
    generator = Generator(llm, {END}, PAD, beam, "never", loop_times=50)
    together = generator(embeds, mask, CAPS)
    search = plain_greedy if beam == 1 else lambda *args: plain_beam(*args, beam)
    for i, size in enumerate(SIZES):
        clip = embeds[i: i + 1, -size:]
        alone = generator(clip, torch.ones(1, size, dtype=torch.long), [CAPS[i]])[0]
        assert together[i] == alone
        assert alone.ids == search(llm, clip[0], CAPS[i])
    # The clips tell something only when their answers differ, in length too, and some meet their limits.
    assert len({tuple(a.ids) for a in together}) == len(SIZES) and len({len(a.ids) for a in together}) > 3
    assert {a.capped for a in together} == {True, False}
    assert [a.capped for a in together] == [len(a.ids) == cap for a, cap in zip(together, CAPS)]


def test_finished_clips_leave(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    embeds, mask = inputs(SIZES)
    rows = []
    forward = llm.model.forward
    monkeypatch.setattr(llm.model, "forward", lambda *args, **kwargs: (
        rows.append(len(kwargs["attention_mask"])), forward(*args, **kwargs))[1])
    answers = Generator(llm, {END}, PAD, 1, "never", loop_times=50)(embeds, mask, CAPS)
    lengths = sorted((min(len(a.ids) + 1, cap) for a, cap in zip(answers, CAPS)), reverse=True)
    # No token is computed twice, none after the last answer's end, and never are half of the rows idle.
    assert len(rows) == lengths[0]
    for step, count in enumerate(rows):
        assert count < 2 * sum(n > step for n in lengths) or step == 0


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 4), st.integers(2, 4))
@settings(max_examples=300)
def test_loops(ids: list[int], period: int, times: int) -> None:
    expected = any(len(ids) >= p * times and ids[-p * times:] == ids[-p:] * times for p in range(1, period + 1))
    assert bool(in_loop(torch.tensor([ids], dtype=torch.long), period, times)) == expected
    kept = without_loop(ids, period, times)
    assert (len(kept) < len(ids)) == expected and ids[: len(kept)] == kept
    if expected:
        p = next(p for p in range(1, period + 1) if ids[-p * times:] == ids[-p:] * times)
        # What is kept may end with another, shorter loop.
        assert kept[-p * times:] != kept[-p:] * times and all(ids[i] == ids[i - p] for i in range(len(kept), len(ids)))


@given(st.lists(st.lists(st.integers(0, 2), min_size=12, max_size=12), min_size=2, max_size=6), st.integers(1, 5))
@settings(max_examples=100)
def test_no_ngram_twice(rows: list[list[int]], size: int) -> None:
    """Against the processor of transformers, one size at a time."""
    from transformers import NoRepeatNGramLogitsProcessor

    ids, scores = torch.tensor(rows[: len(rows) // 2 * 2]), torch.zeros(len(rows) // 2 * 2, 5)
    found = _NoRepeat(torch.tensor([size, size + 1]))(ids, scores)
    half = len(ids) // 2
    for part, n in ((slice(0, half), size), (slice(half, None), size + 1)):
        assert found[part].equal(NoRepeatNGramLogitsProcessor(n)(ids[part], scores[part]))


@pytest.fixture
def looping(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> LLM:
    """The same model, which goes round 2, 3, 4 unless that is forbidden; the rest of its logits is as before."""
    forward, table = llm.model.forward, llm.model.get_input_embeddings().weight

    def loop(input_ids: Any = None, inputs_embeds: Any = None, **rest: Any) -> Any:
        out = forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **rest)
        last = torch.cdist(inputs_embeds[:, -1], table).argmin(1) if input_ids is None else input_ids[:, -1]
        following = torch.where((last >= 2) & (last < 4), last + 1, 2)
        out.logits[torch.arange(len(following)), -1, following] += 100.0
        out.logits[:, -1, [END, PAD]] -= 40.0
        return out

    monkeypatch.setattr(llm.model, "forward", loop)
    return llm


@pytest.mark.parametrize("beam", [1, 2])
def test_loops_are_ended(looping: LLM, beam: int) -> None:
    embeds, mask = inputs([9, 14, 4])
    caps = [120, 100, 7]
    found = Generator(looping, {END}, PAD, beam, "never", 8, 8, 5)(embeds, mask, caps)
    # The third meets its limit before that is a loop.
    assert [a.repeated for a in found] == [True, True, False] and [a.capped for a in found] == [False, False, True]
    assert all(len(a.ids) <= 4 for a in found[:2]) and len(found[2].ids) == 7


@pytest.mark.parametrize("mode, repeated", [("fallback", True), ("always", False)])
def test_no_ngram_occurs_twice(looping: LLM, mode: str, repeated: bool) -> None:
    embeds, mask = inputs([9, 14])
    generator = Generator(looping, {END}, PAD, 1, mode, 6, 8, 5)
    found = generator(embeds, mask, [60, 50], [0, 8])
    for answer, size in zip(found, (6, 12)):  # the label of the second clip has 8 tokens
        ngrams = [tuple(answer.ids[i: i + size]) for i in range(len(answer.ids) - size + 1)]
        assert len(ngrams) > 10 and len(set(ngrams)) == len(ngrams)
        assert answer.repeated is repeated
        shorter = [tuple(answer.ids[i: i + size - 1]) for i in range(len(answer.ids) - size + 2)]
        assert len(set(shorter)) < len(shorter)
    alone = generator(embeds[:1, -9:], mask[:1, -9:], [60], [0])
    assert alone == found[:1]


def test_repeated_tokens_are_kept_where_ngrams_alone_are_banned(looping: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even what the detector of loops would cut off."""
    embeds, mask = inputs([9])
    monkeypatch.setattr(generate, "in_loop", lambda ids, *_: torch.ones(len(ids), dtype=torch.bool))
    monkeypatch.setattr(generate, "without_loop", lambda ids, *_: ids[:1])
    found = Generator(looping, {END}, PAD, 1, "always", 6, 8, 5)(embeds, mask, [60])
    assert len(found[0].ids) == 60 and found[0].capped and not found[0].repeated


def test_an_answer_that_comes_to_its_end_is_not_endless(llm: LLM) -> None:
    """Eight times a word and then the end is an answer; where answers are looked at, and at their limit, a loop."""
    generator = Generator(llm, {END}, PAD, 1, "never", 1, 8, 8)
    said = [7, 9, 3, *[5] * 8]
    assert generator._answer([*said, END, PAD], 50) == (said, False, False)
    assert generator._answer(said, len(said)) == ([7, 9, 3, 5], True, False)
    assert generator._answer([*[5] * 8, END], 50) == ([5], True, False)


def test_stop_in_a_beam() -> None:
    """Two candidates of each of two clips."""
    stop = _Stop(torch.tensor([0, 1]), 4, 3)
    ids = torch.tensor([[2, 3, 4, 5, 6, 7, 7, 7], [2, 3, 4, 5, 6, 7, 8, 7], [2] * 8, [2, 4, 3, 3, 3, 3, 3, 1]])
    assert stop.early(ids, torch.tensor([9, 8])).tolist() == [True, False, True, True]
    assert stop.ended(ids, torch.tensor([9, 9])).tolist() == [True, False, True, True]
    assert stop.early(ids[:, :7], torch.tensor([9, 9])).tolist() == [False] * 4  # loops are not looked for here


def test_length_limit() -> None:
    assert cap_of(0.0, 20.0, 1024) == 32 and cap_of(100.0, 20.0, 64) == 64
    check_room("c1", 10.0, 300, 20, 232, 532)
    with pytest.raises(UserError, match=r"clip 'c1' of 10.0 s takes 300 positions and its answer up to 232, the "
                                        r"language model has 292, enough for about 5.0 s; cut shorter clips"):
        check_room("c1", 10.0, 300, 20, 232, 292)
