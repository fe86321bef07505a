"""Labels of registered speakers by voice: whose it is that a speech LLM had in mind while it wrote a turn.

A small language model finds the voice of a turn more often than it then copies the right name. With ``voice_layer``
(``nets/voice_loss.py``) its states tell that voice at every token, so the answer is read once more, and each turn gets
the registered name whose voice is nearest to the mean of what its tokens tell. Ours, of no publication.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Optional

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from espnet_mt_llm.models.speech_llm import SpeechLLM
from espnet_mt_llm.text.llm_tokenizer import LLMTokenizer
from espnet_mt_llm.text.parsing import Turns
from espnet_mt_llm.text.targets import Encoded, build_target, clean, encode_target
from espnet_mt_llm.train.speech_llm_targets import saying


def nearest_names(model: SpeechLLM, tokenizer: LLMTokenizer, fmt: str, turns: Sequence[Turns],
                  names: Sequence[Sequence[str]], prompt: torch.Tensor, prompt_lengths: torch.Tensor,
                  enrolled: torch.Tensor, audio: Optional[tuple[torch.Tensor, torch.Tensor]],
                  utt_id: Optional[Sequence[str]] = None) -> list[Turns]:
    """Return ``turns`` of B answers with the names of the nearest voices.

    A clip without a registered voice keeps its labels, as does a turn without words.

    Args:
        model: has learnt with ``voice_layer``.
        fmt: in which it writes.
        names: registered with each clip, in the order of ``enrolled``.
        prompt, prompt_lengths, enrolled, utt_id: see :meth:`SpeechLLM.prepare`.
        audio: what :meth:`SpeechLLM.positions` gives.
    """
    written = [_again(said, known, fmt, tokenizer) for said, known in zip(turns, names)]
    target = pad_sequence([torch.tensor(encoded.ids) for encoded, _ in written], batch_first=True).to(prompt.device)
    sizes = torch.tensor([len(encoded.ids) for encoded, _ in written], device=prompt.device)
    _, middle = model.predict(prompt, prompt_lengths, target, sizes, audio, enrolled, utt_id)
    out = []
    for k, (encoded, places) in enumerate(written):
        out.append(list(turns[k]))
        if not names[k]:
            continue
        found = model.answer_voice.found(middle[k])
        cosines = turn_voices(encoded, found) @ F.normalize(enrolled[k, : len(names[k])].float(), dim=-1).T
        for place, nearest in zip(places, cosines.argmax(1).tolist()):
            for i in place:
                out[k][i] = (names[k][nearest], turns[k][i][1])
    return out


def _again(turns: Turns, names: Sequence[str], fmt: str, tokenizer: LLMTokenizer) -> tuple[Encoded, list[list[int]]]:
    """Return an answer's tokens as they should have been written, and which turns each of its turns is made of."""
    said = [(label, i) for i, (label, words) in enumerate(turns) if clean(words, fmt)[0]]
    places = [[i for _, i in run] for _, run in groupby(said, key=lambda pair: pair[0])]
    segments = [{"session_id": "", "speaker": label, "start_time": float(i), "end_time": i + 1.0, "words": turns[i][1]}
                for label, i in said]
    pieces = build_target(segments, fmt, {label: label for label, _ in said if label in names}, math.inf)
    return encode_target(pieces, tokenizer), places


def turn_voices(target: Encoded, found: torch.Tensor) -> torch.Tensor:
    """Return the mean voice ``(N, E)`` of each turn of ``target`` from those that its states tell, ``(U, E)``."""
    turns = [n for n, (_, run) in enumerate(groupby(target.speakers)) for _ in run]
    whose = torch.tensor(saying(target.types, turns, -1), device=found.device)
    # The last run is the end of the answer.
    return torch.stack([found[: len(whose)][whose == n].mean(0) for n in range(turns[-1])]) if turns[-1] else found[:0]
