"""From a clip's audio and supervision to the arrays that a model is trained on."""

from typing import Any, Optional, Sequence

import numpy as np

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.normalise import normalise
from espnet_mt_llm.text.serialisation import Order, parse_supervision, turns
from espnet_mt_llm.text.token_list import Tokenizer


def as_samples(speech: Any, rate: int, clip: str) -> np.ndarray:
    """Return mono float32 samples ``(N,)`` from what a reader gives: samples, or a pair (rate, samples).

    Raises:
        UserError: another sampling rate, several channels, no sample.
    """
    if isinstance(speech, tuple):
        found, speech = speech if np.ndim(speech[0]) == 0 else speech[::-1]
        if int(found) != rate:
            raise UserError(f"clip '{clip}' has {found} Hz, the model is for {rate} Hz; run the stage 'clips' with "
                            f"--fs {rate}")
    speech = np.asarray(speech)
    if speech.ndim != 1:
        raise UserError(f"clip '{clip}' has {speech.shape[-1]} channels; run the stage 'clips', it keeps one")
    if not len(speech):
        raise UserError(f"clip '{clip}' has no samples; remove it with utils/fix_data_dir.sh")
    if speech.dtype == np.int16:
        return speech.astype(np.float32) / 32768.0
    return speech.astype(np.float32, copy=False)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play ``samples`` ``(N,)`` ``factor`` times as fast, by linear interpolation: tempo and pitch change together."""
    positions = np.arange(0, len(samples) - 1, factor)
    left = positions.astype(np.int32)
    weight = (positions - left).astype(np.float32)
    return samples[left] * (1 - weight) + samples[left + 1] * weight


class TalkerTexts:
    """Build the targets of serialized CTC and PIT: the token ids of each talker, in SOT order.

    Args:
        tokenizer: transcript to ids.
        profile: text normalisation.
        max_talkers: K_max.
        order: who comes first.
        rate: sampling rate in Hz.
        speed_factors: while training, one of them is drawn for each clip; empty for none.
        train: whether to augment.
    """

    def __init__(self, tokenizer: Tokenizer, profile: str, max_talkers: int, order: Order = Order(),
                 rate: int = 16000, speed_factors: Sequence[float] = (), train: bool = False) -> None:
        self.tokenizer, self.profile, self.max_talkers, self.order = tokenizer, profile, max_talkers, order
        self.rate = rate
        self.speed_factors = tuple(speed_factors) if train else ()

    def __call__(self, uid: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return ``speech`` ``(N,)``, ``text`` ``(L,)`` of all talkers in a row and ``talkers`` ``(K_max,)``.

        These are the numbers of tokens of each, -1 beyond the last talker.

        Raises:
            UserError: more than ``max_talkers`` talkers, or none.
        """
        speech = as_samples(data["speech"], self.rate, uid)
        if self.speed_factors:
            factor = self.speed_factors[np.random.randint(len(self.speed_factors))]
            if factor != 1.0 and len(speech) > 1:
                speech = change_speed(speech, factor)
        texts = talker_texts(parse_supervision(data["supervision"], uid), self.profile, self.order)
        if not 1 <= len(texts) <= self.max_talkers:
            raise UserError(f"clip '{uid}' has {len(texts)} talkers, the model takes 1 to {self.max_talkers}; "
                            "raise max_talkers or leave the clip out")
        ids = [self.tokenizer.encode(text) for text in texts]
        sizes = np.full(self.max_talkers, -1, dtype=np.int64)
        sizes[: len(ids)] = [len(talker) for talker in ids]
        return {"speech": speech, "text": np.array([i for talker in ids for i in talker], dtype=np.int64),
                "talkers": sizes}


def talker_texts(segments: Sequence[dict], profile: str, order: Optional[Order] = None) -> list[str]:
    """Return the normalised transcript of each talker, in SOT order."""
    return [normalise(turn.text, profile) for turn in turns(segments, order or Order())]
