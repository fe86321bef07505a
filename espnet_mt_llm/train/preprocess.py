"""From a clip's audio and supervision to the arrays that a model is trained on."""

from typing import Any, Sequence

import numpy as np

from espnet_mt_llm.common import UserError
from espnet_mt_llm.text.normalise import normalise
from espnet_mt_llm.text.serialisation import Order, Turn, parse_supervision, turns
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
    if factor == 1.0 or len(samples) < 2:
        return samples
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
        speech = change_speed(as_samples(data["speech"], self.rate, uid), self.draw_speed())
        return {"speech": speech, **self.texts(uid, turns(parse_supervision(data["supervision"], uid), self.order))}

    def draw_speed(self) -> float:
        """Draw a speed factor; 1 where there are none."""
        return self.speed_factors[np.random.randint(len(self.speed_factors))] if self.speed_factors else 1.0

    def texts(self, uid: str, talkers: Sequence[Turn]) -> dict[str, np.ndarray]:
        """Return ``text`` and ``talkers``."""
        if not 1 <= len(talkers) <= self.max_talkers:
            raise UserError(f"clip '{uid}' has {len(talkers)} talkers, the model takes 1 to {self.max_talkers}; "
                            "raise max_talkers or leave the clip out")
        ids = [self.tokenizer.encode(normalise(talker.text, self.profile)) for talker in talkers]
        sizes = np.full(self.max_talkers, -1, dtype=np.int64)
        sizes[: len(ids)] = [len(talker) for talker in ids]
        return {"text": np.array([i for talker in ids for i in talker], dtype=np.int64), "talkers": sizes}


class JointTargets(TalkerTexts):
    """Build the targets of diarization, separation and recognition together; talkers are in SOT order in all three.

    Args:
        frame_shift: seconds between the encoder's frames, for the labels of diarization.
        conf: arguments of :class:`TalkerTexts`.

    Raises:
        UserError: an order of utterances.
    """

    def __init__(self, *args: Any, frame_shift: float, **conf: Any) -> None:
        super().__init__(*args, **conf)
        if self.order.unit != "talker":
            raise UserError(f"order_conf: unit '{self.order.unit}'; use talker: a stream is all that a talker says")
        self.frame_shift = frame_shift

    def __call__(self, uid: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return what :class:`TalkerTexts` does, ``activity`` ``(T, K_max)`` and ``sources`` ``(N, K_max)``.

        ``activity`` is 1 where a talker speaks in a frame; ``sources``, where the data has them, are the clean signals.
        Talkers that are not there have zeros.

        Raises:
            UserError: more than ``max_talkers`` talkers, none, or sources that are not those of the supervision.
        """
        factor = self.draw_speed()
        speech = change_speed(as_samples(data["speech"], self.rate, uid), factor)
        segments = parse_supervision(data["supervision"], uid)
        talkers = turns(segments, self.order)
        targets = {"speech": speech, **self.texts(uid, talkers)}
        speakers = [talker.speaker for talker in talkers]
        frames = int(np.ceil(len(speech) / self.rate / self.frame_shift)) + 1
        targets["activity"] = np.zeros((frames, self.max_talkers), dtype=np.float32)
        targets["activity"][:, : len(speakers)] = frame_labels(segments, speakers, frames, self.frame_shift * factor)
        if "sources" in data:
            parts = np.asarray(data["sources"][1])
            if parts.shape[1] != len(speakers):
                raise UserError(f"clip '{uid}' has {len(speakers)} talkers in its supervision and {parts.shape[1]} in "
                                "its manifest; make the clips again (stage 3)")
            # The reader sorts them by the speakers' ids.
            place = [sorted(speakers).index(speaker) for speaker in speakers]
            sources = np.stack([change_speed(parts[:, k], factor) for k in place], axis=1)
            targets["sources"] = np.zeros((len(speech), self.max_talkers), dtype=np.float32)
            targets["sources"][:, : len(speakers)] = sources
        return targets


def frame_labels(segments: Sequence[dict], speakers: Sequence[str], num_frames: int, frame_shift: float) -> np.ndarray:
    """Say who speaks in each frame: ``(T, S)`` of 0 and 1; a frame belongs to what is said in its middle.

    >>> frame_labels([{"speaker": "A", "start_time": 0.06, "end_time": 0.13}], ["B", "A"], 4, 0.04)[:, 1].tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    labels = np.zeros((num_frames, len(speakers)), dtype=np.float32)
    for segment in segments:
        first, last = (int(np.ceil(segment[key] / frame_shift - 0.5)) for key in ("start_time", "end_time"))
        labels[max(first, 0) : max(last, 0), speakers.index(segment["speaker"])] = 1.0
    return labels
