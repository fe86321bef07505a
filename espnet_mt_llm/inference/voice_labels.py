"""Labels of registered speakers by voice: whose it is that a speech LLM had in mind while it wrote a turn.

A small language model finds the voice of a turn more often than it then copies the right name. With ``voice_layer``
(``nets/voice_loss.py``) its states tell that voice at every token, so the answer is read once more, and each turn gets
the registered name whose voice is nearest to the mean of what its tokens tell. Ours, of no publication.
"""

import logging
from collections.abc import Sequence
from itertools import groupby

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from espnet_mt_llm.models.speech_llm import AUDIO, SpeechLLM
from espnet_mt_llm.text.llm_tokenizer import LLMTokenizer
from espnet_mt_llm.text.parsing import Turns
from espnet_mt_llm.text.targets import Encoded, encode_target, turns_again
from espnet_mt_llm.train.speech_llm_targets import saying

log = logging.getLogger(__name__)


def nearest_names(model: SpeechLLM, tokenizer: LLMTokenizer, fmt: str, turns: Sequence[Turns],
                  names: Sequence[Sequence[str]], prompt: torch.Tensor, prompt_lengths: torch.Tensor,
                  enrolled: torch.Tensor, audio: tuple[torch.Tensor, torch.Tensor], utt_id: Sequence[str]
                  ) -> list[Turns]:
    """Return ``turns`` of B answers with the names of the nearest voices in place of other names.

    A turn with a number stays what it is, for somebody who is not registered, as does one without words, a clip with
    nobody registered, and an answer so much longer in good form that the language model has no positions for it.

    Args:
        model: has learnt with ``voice_layer``.
        fmt: in which it writes.
        names: registered with each clip, in the order of ``enrolled``.
        prompt, prompt_lengths, enrolled, utt_id: see :meth:`SpeechLLM.prepare`.
        audio: what :meth:`SpeechLLM.positions` gives.
    """
    room = model.llm.max_positions - (prompt_lengths + audio[1] - (prompt == AUDIO).sum(1))
    written = [encode_target(turns_again(said, fmt), tokenizer) for said in turns]
    for k, encoded in enumerate(written):
        if len(encoded.ids) > int(room[k]):
            log.warning("clip '%s': its answer needs %d positions to be read again and has %d; it keeps the names that "
                        "were written", utt_id[k], len(encoded.ids), int(room[k]))
            written[k] = encode_target(turns_again([], fmt), tokenizer)
    target = pad_sequence([torch.tensor(encoded.ids) for encoded in written], batch_first=True).to(prompt.device)
    sizes = torch.tensor([len(encoded.ids) for encoded in written], device=prompt.device)
    _, middle = model.target_states(prompt, prompt_lengths, target, sizes, audio, enrolled, utt_id)
    out = []
    for k, encoded in enumerate(written):
        out.append(list(turns[k]))
        if not names[k]:
            continue
        found = model.answer_voice.found(middle[k])
        cosines = turn_voices(encoded, found) @ F.normalize(enrolled[k, : len(names[k])].float(), dim=-1).T
        for turn, nearest in zip(_turns(encoded), cosines.argmax(1).tolist()):
            label, words = turns[k][int(turn)]
            if not label.isdecimal():
                out[k][int(turn)] = (names[k][nearest], words)
    return out


def _turns(target: Encoded) -> list[str]:
    """Return the turns of ``target`` by their numbers; the end is nobody's, and none of them."""
    return [number for number, _ in groupby(target.speakers) if number]


def turn_voices(target: Encoded, found: torch.Tensor) -> torch.Tensor:
    """Return the mean voice ``(N, E)`` of each turn of ``target`` from those that its states tell, ``(U, E)``.

    Args:
        target: what :func:`~espnet_mt_llm.text.targets.turns_again` makes, encoded; its speakers are numbers of turns.
    """
    whose = saying(target)
    places = [[k for k, number in enumerate(whose) if number == turn] for turn in _turns(target)]
    return torch.stack([found[place].mean(0) for place in places]) if places else found[:0]
