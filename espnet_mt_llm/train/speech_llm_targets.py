"""From a clip, or several that are heard one after the other, to what a speech LLM reads and learns to write."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from espnet_mt_llm.common import Chance, UserError
from espnet_mt_llm.text.llm_tokenizer import LLMTokenizer
from espnet_mt_llm.text.normalise import normalise
from espnet_mt_llm.text.parsing import check_format
from espnet_mt_llm.text.prompts import AUDIO, build_prompt, encode_prompt, enroll, template
from espnet_mt_llm.text.serialisation import parse_supervision
from espnet_mt_llm.text.targets import END, SPEAKER, Encoded, build_target, encode_target
from espnet_mt_llm.train.preprocess import as_samples, change_speed
from espnet_mt_llm.train.registering import Registered, Registrar, voices

# Between the ids of clips that are concatenated; no id has one.
JOINT = " "


class Writing(NamedTuple):
    """What a speech LLM writes, and how it is asked.

    Attributes:
        format: ``speakerlm``, ``sc_suffix``, or ``sot``, which names nobody.
        prompt: style of the prompt, ``speakerlm`` or ``dual``.
        profile: text normalisation.
        max_ids: numbers for speakers without a name.
        pause: seconds between utterances of one speaker that part them by a virtual ``<SC>``.
    """

    format: str = "speakerlm"
    prompt: str = "speakerlm"
    profile: str = "none"
    max_ids: int = 8
    pause: float = 1.0

    def mode(self, registered: bool) -> str:
        """Return which of the prompts of its style is asked with.

        >>> Writing("sot").mode(False), Writing().mode(False), Writing().mode(True)
        ('asr', 'no', 'match')
        """
        return "asr" if self.format == "sot" else "match" if registered else "no"


class SpeechLLMTargets:
    """Build the arrays that :class:`~espnet_mt_llm.models.speech_llm.SpeechLLM` is trained on.

    Args:
        tokenizer: of the language model.
        writing: format and prompts.
        rate: sampling rate in Hz.
        speed_factors: while training one of them is drawn; empty for none.
        registrar: draws who is registered; None for nobody.
        train: whether to draw anew each time; else a clip has the same draws in every epoch.
        with_audio: False for a model of text alone; with voices it hears one for each label in place of the audio.
        cache_features: ask for the frames of the frozen encoders instead of audio, see ``train/features.py``.
        with_voices: give the voices of who talks, for ``nets/voice_loss.py``; with a registrar.

    Attributes:
        at_speed: speed factor → embeddings of the stretches of the pool, for who is heard at that speed; set when the
            speaker encoder is there, as the frames are.
        embedding_size: E.
        frame_shift: seconds between the frames of the speech encoder; set when it is there.
        stride: its frames for one of the adapter.
        speaker_frames: frames of the speaker encoder for one of those.
    """

    def __init__(self, tokenizer: LLMTokenizer, writing: Writing = Writing(), rate: int = 16000,
                 speed_factors: Sequence[float] = (), registrar: Optional[Registrar] = None, train: bool = False,
                 with_audio: bool = True, cache_features: bool = False, with_voices: bool = False) -> None:
        check_format(writing.format)
        template(writing.prompt, writing.mode(False))
        if writing.format == "sot" and registrar is not None and registrar.settings.mode != "none":
            raise UserError("registration: the format sot names nobody; use speakerlm or sc_suffix")
        self.tokenizer, self.writing, self.rate = tokenizer, writing, rate
        self.speed_factors = tuple(speed_factors) if train else ()
        self.registrar, self.train, self.with_audio = registrar, train, with_audio
        self.cache_features, self.with_voices = cache_features, with_voices
        self.at_speed: dict[float, Mapping[str, np.ndarray]] = {}
        self.embedding_size = 0
        self.frame_shift, self.stride, self.speaker_frames = 0.0, 1, 1.0

    def __call__(self, uid: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return prompt, target, and speech ``(N,)`` or the frames that the encoders have made of it.

        Args:
            uid: id of the clip, or ids with :data:`JOINT` between them.
            data: ``supervision`` and ``speech`` of the clip, or tuples of them; or ``semantic`` ``(T, D)`` (and
                ``speaker`` ``(T', E)``) instead of ``speech``.

        Returns:
            ``prompt`` ``(P,)``, ``target``, ``types``, ``weights``, ``overlapped`` ``(U,)`` and, with registration,
            ``enrolled`` ``(R, E)``, beside the audio; for the losses of voices ``voices`` ``(S, E)``, those of the clip
            and then those of others who are registered, ``talking`` ``(T,)`` and ``saying`` ``(U,)``, whose voice a
            model should have in mind where it predicts each token.

        Raises:
            UserError: more speakers than ids, or audio that does not fit.
        """
        clips = uid.split(JOINT)
        speeds = self.speed_factors
        factor = speeds[np.random.randint(len(speeds))] if speeds else 1.0
        arrays, starts = self._audio(clips, data, factor)
        lines = data["supervision"] if len(clips) > 1 else (data["supervision"],)
        segments = self.segments(clips, lines, starts, factor)
        speakers, registered, chance = self.draw(clips, segments)
        target = self.target(segments, registered.names)
        arrays |= {"prompt": np.array(self.prompt([registered.names[s] for s in registered.speakers]), dtype=np.int64),
                   "target": np.array(target.ids, dtype=np.int64), "types": np.array(target.types, dtype=np.int64),
                   "weights": np.array(target.weights, dtype=np.float32),
                   "overlapped": np.array(target.overlapped, dtype=np.int64)}
        if self.at_speed:
            embeddings = self.at_speed[factor]
            arrays["enrolled"] = voices(registered, embeddings, self.embedding_size)
            if self.with_voices:
                # Nobody is heard in what he is registered from: an equal voice would be found without comparing.
                besides = () if self.with_audio else {name for each in registered.stretches for name in each}
                own = self.registrar.own(clips, speakers, chance, besides)
                others = [k for k, spk in enumerate(registered.speakers) if spk not in own.speakers]
                arrays["voices"] = np.concatenate([voices(own, embeddings, self.embedding_size),
                                                   arrays["enrolled"][others]])
                number = {spk: k for k, spk in enumerate(own.speakers, 1)}
                arrays["saying"] = np.array([number.get(spk, 0) for spk in saying(target)], dtype=np.int64)
                if self.with_audio:
                    arrays["talking"] = self._talking(segments, number, self._size(arrays))
                else:
                    arrays |= self._heard_voices(target, own, arrays, embeddings, chance)
        return arrays

    def draw(self, clips: Sequence[str], segments: Sequence[Mapping]
             ) -> tuple[list[str], Registered, Optional[Chance]]:
        """Return who talks in ``segments``, first come first, who is registered with them, and the chance that goes on.

        Unless in training, it is the same each time.
        """
        speakers = list(dict.fromkeys(s["speaker"] for s in sorted(segments, key=lambda s: s["start_time"])))
        if self.registrar is None:
            return speakers, Registered((), {}, ()), None
        seed = (np.random.randint(2**31),) if self.train else (self.registrar.settings.seed, JOINT.join(clips))
        chance = Chance(*seed)
        return speakers, self.registrar.draw(clips, speakers, chance), chance

    def _heard_voices(self, target: Encoded, own: Registered, arrays: Mapping[str, np.ndarray],
                      embeddings: Mapping[str, np.ndarray], chance: Chance) -> dict[str, np.ndarray]:
        """Return prompt and embeddings with a voice for each label, that of one stretch, in place of audio."""
        stretches = dict(zip(own.speakers, own.stretches))
        heard = [stretches[spk] for spk, kind, before in zip(target.speakers, target.types, [END, *target.types])
                 if kind == SPEAKER and before != SPEAKER and spk in stretches]
        first = len(arrays["enrolled"])
        places = [enroll(first + k) for k in range(len(heard))]
        prompt = [i for token in arrays["prompt"].tolist() for i in (places if token == AUDIO else [token])]
        found = [arrays["enrolled"], *(embeddings[chance.pick(each)][None] for each in heard)]
        return {"prompt": np.array(prompt, dtype=np.int64), "enrolled": np.concatenate(found).astype(np.float32)}

    def _size(self, arrays: Mapping[str, np.ndarray]) -> int:
        """Return how many frames the adapter gives."""
        frames = len(arrays["semantic"]) if "semantic" in arrays else \
            math.ceil(len(arrays["speech"]) / self.rate / self.frame_shift)
        return -(-frames // self.stride)

    def _talking(self, segments: Sequence[Mapping], number: Mapping[str, int], size: int) -> np.ndarray:
        """Return ``(size,)``: the number of who talks in each frame, 0 where it is nobody, several, or one without."""
        shift = self.frame_shift * self.stride
        who, talkers = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
        for s in segments:
            span = slice(round(s["start_time"] / shift), round(s["end_time"] / shift))
            who[span] = number.get(s["speaker"], 0)
            talkers[span] += 1
        return np.where(talkers == 1, who, 0)

    def _audio(self, clips: Sequence[str], data: Mapping[str, Any], factor: float
               ) -> tuple[dict[str, np.ndarray], list[float]]:
        """Return the audio, and the seconds at which each clip begins in it."""
        if "semantic" in data:
            return self._frames({name: data[name] for name in ("semantic", "speaker") if name in data})
        if not self.with_audio:
            lines = data["supervision"] if len(clips) > 1 else (data["supervision"],)
            spans = [max((s["end_time"] for s in parse_supervision(line)), default=0.0) for line in lines]
            return {}, [0.0, *np.cumsum(spans)[:-1].tolist()]
        parts = data["speech"] if len(clips) > 1 else (data["speech"],)
        samples = [change_speed(as_samples(part, self.rate, clip), factor) for clip, part in zip(clips, parts)]
        ends = np.cumsum([len(s) for s in samples]) / self.rate
        return {"speech": np.concatenate(samples)}, [0.0, *ends[:-1].tolist()]

    def _frames(self, data: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], list[float]]:
        """Return the frames of a clip, or of a row, and the seconds at which each clip begins in them."""
        if not isinstance(data["semantic"], tuple):
            return dict(data), [0.0]
        sizes = [len(frames) for frames in data["semantic"]]
        row = {"semantic": np.concatenate(data["semantic"])}
        if "speaker" in data:
            # What the rounding of two front ends leaves would move the streams apart, clip by clip.
            wanted = [np.arange(round(size * self.speaker_frames)) for size in sizes]
            row["speaker"] = np.concatenate([frames[np.minimum(steps, len(frames) - 1)]
                                             for frames, steps in zip(data["speaker"], wanted)])
        return row, [0.0, *(np.cumsum(sizes)[:-1] * self.frame_shift).tolist()]

    def segments(self, clips: Sequence[str], supervision: Sequence[str], starts: Sequence[float] = (0.0,),
                 factor: float = 1.0) -> list[dict]:
        """Return the segments of clips that are heard one after the other, with normalised texts.

        Args:
            supervision: the line of each clip.
            starts: seconds at which each clip begins.
            factor: how much faster they are played.
        """
        return [{**s, "start_time": start + s["start_time"] / factor, "end_time": start + s["end_time"] / factor}
                for clip, line, start in zip(clips, supervision, starts)
                for s in self.normalised(parse_supervision(line, clip))]

    def normalised(self, segments: Sequence[Mapping]) -> list[dict]:
        """Return ``segments`` with normalised texts."""
        return [{**s, "words": normalise(s["words"], self.writing.profile)} for s in segments]

    def target(self, segments: Sequence[Mapping], names: Mapping[str, str] = {}) -> Encoded:
        """Return the target of segments whose speakers may have ``names``."""
        pieces = build_target(segments, self.writing.format, names, self.writing.pause, num_ids=self.writing.max_ids,
                              counts=Counter())
        return encode_target(pieces, self.tokenizer)

    def prompt(self, names: Sequence[str] = ()) -> list[int]:
        """Return the token ids of the prompt with ``names`` registered; a model of text alone has no places in it."""
        text = template(self.writing.prompt, self.writing.mode(bool(names)))
        ids = encode_prompt(build_prompt(text, names), self.tokenizer)
        return ids if self.with_audio or self.with_voices else [i for i in ids if i >= 0]

    def prompt_size(self, speakers: int) -> int:
        """Return how many tokens a prompt has on average, audio not counted, for a clip of so many speakers."""
        size = len(self.prompt())
        if self.registrar is not None:
            names = self.registrar.supply[:20]
            each = (len(self.prompt(names)) - size) / len(names) if names else 0
            size += math.ceil(self.registrar.expected(speakers) * each)
        return size


def saying(target: Encoded) -> list[str]:
    """Return ``(U,)``: whose voice a model should have in mind where it predicts each token of ``target``.

    He who has said the token before, so that a label has its voice with it; before a label he whose label it is, who
    may be the next one; before the first word nobody.

    >>> from espnet_mt_llm.text.targets import TEXT
    >>> types = [SPEAKER, TEXT, TEXT, SPEAKER, TEXT, END]
    >>> saying(Encoded([], types, [], [], ["A", "A", "A", "B", "B", ""]))
    ['A', 'A', 'A', 'B', 'B', 'B']
    """
    before = ["", *target.speakers[:-1]]
    return [spk if kind == SPEAKER else last for spk, kind, last in zip(target.speakers, target.types, before)]
