"""Which speaker labels a speech LLM gets right where all that stands before them is true, and where others are lost.

Errors of an answer add up: after a wrong name the next ones are wrong, too, and words count as well. Here each label is
predicted from the reference before it, so that a comparison of voices is seen by itself, in any step of a training,
those without audio included. With ``voice_layer`` (``nets/voice_loss.py``) it is seen whether a voice was not found, or
was found and not recognised.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch
from torch.nn import functional as F

from espnet_mt_llm.common import Pathlike, UserError, at, progress
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.inference.model import load_model, task_class
from espnet_mt_llm.models.speech_llm import SpeechLLM
from espnet_mt_llm.text.targets import SPEAKER, Encoded
from espnet_mt_llm.train.collate import pad_batch
from espnet_mt_llm.train.features import introduce
from espnet_mt_llm.train.registering import Registered
from espnet_mt_llm.train.speech_llm_targets import SpeechLLMTargets

LABELS = FIRST, NEW, RETURNS = "first of the clip", "new speaker", "speaker returns"
FOUND, HEARD = "voice found", "voice heard"


@dataclass
class LabelAccuracy:
    """How many labels are right.

    Attributes:
        right, total: of each kind; :data:`FOUND` counts labels for which the nearest of the registered voices to what
            ``voice_layer`` has found is the right one, :data:`HEARD` the same of what is heard in place of audio.
    """

    right: Counter = field(default_factory=Counter)
    total: Counter = field(default_factory=Counter)

    def add(self, kind: str, right: bool) -> None:
        """Count a label."""
        self.right[kind] += right
        self.total[kind] += 1

    def share(self, kinds: Sequence[str] = LABELS) -> float:
        """Return the share of right ones, NaN where there are none."""
        total = sum(self.total[kind] for kind in kinds)
        return sum(self.right[kind] for kind in kinds) / total if total else float("nan")

    def line(self) -> str:
        """Return all shares in one line.

        >>> counts = LabelAccuracy()
        >>> for kind, right in ((FIRST, True), (RETURNS, False), (FOUND, True)):
        ...     counts.add(kind, right)
        >>> counts.line()
        '50.0 % of 2 labels: first of the clip 100.0 % of 1, speaker returns 0.0 % of 1; voice found 100.0 % of 1'
        """
        labels, voices = ([f"{kind} {100 * self.share([kind]):.1f} % of {self.total[kind]}" for kind in kinds
                           if self.total[kind]] for kinds in (LABELS, (FOUND, HEARD)))
        total = sum(self.total[kind] for kind in LABELS)
        return "; ".join([f"{100 * self.share():.1f} % of {total} labels: {', '.join(labels)}", *voices])


class LabelProbe:
    """A loaded speech LLM that is asked for each label of a reference.

    Args:
        model_dir: the training's output.
        data_dir: clips (dump/<set>), with a pool of stretches where the model knows voices.
        registration, num_distractors: see :meth:`register`.
        weights: file of the weights; the best there are when empty.
        device: ``cpu``, ``cuda`` ...

    Raises:
        UserError: no such model, or one that nobody can be registered with.
    """

    def __init__(self, model_dir: Pathlike, data_dir: Pathlike, registration: str = "none", num_distractors: int = 10,
                 weights: str = "", device: str = "cpu") -> None:
        torch.set_flush_denormal(True)
        self.model: SpeechLLM
        self.model, self.args, _ = load_model(model_dir, "speech_llm", weights, device)
        self.model_dir, self.data_dir, self.device = model_dir, Path(data_dir), device
        self.targets: SpeechLLMTargets
        self.register(registration, num_distractors)
        self.wav = read_map(self.data_dir / "wav.scp") if self.targets.with_audio else {}

    def register(self, registration: str, num_distractors: int = 10) -> None:
        """Choose who is registered from now on, with the draws of a validation.

        Args:
            registration: ``none``, ``match``, or ``over``.
            num_distractors: how many others are registered with ``over``.

        Raises:
            UserError: nobody can be registered with this model.
        """
        if registration != "none" and self.args.registration == "none":
            raise UserError(f"{self.model_dir}: this model has learnt with registration: none, so nobody can be "
                            "registered; use --registration none")
        drawn = {**(self.args.registration_conf or {}), "min_distractors": num_distractors,
                 "max_distractors": num_distractors, "rivals": 0.0}
        changed = {"registration": registration, "registration_conf": drawn, "valid_dir": str(self.data_dir),
                   "feature_cache": False}
        self.targets = task_class("speech_llm").build_preprocess_fn(Namespace(**{**vars(self.args), **changed}), False)
        introduce(self.targets, self.model, self.device)

    @torch.no_grad()
    def __call__(self, supervision: Mapping[str, str], batch_size: int = 16) -> LabelAccuracy:
        """Return how many labels of the clips of ``supervision``, id → line of the file, are right.

        Raises:
            UserError: a clip without audio.
        """
        counts = LabelAccuracy()
        clips = list(supervision)
        lost = supervision.keys() - self.wav.keys() if self.targets.with_audio else ()
        if lost:
            raise at(self.data_dir / "wav.scp", None, f"the clip '{min(lost)}' is not there",
                     "make the clips again (stage 3)")
        for begin in progress(range(0, len(clips), batch_size), f"labels of {self.data_dir.name}"):
            self._measure({clip: supervision[clip] for clip in clips[begin : begin + batch_size]}, counts)
        return counts

    def _measure(self, supervision: Mapping[str, str], counts: LabelAccuracy) -> None:
        """Add the labels of one batch."""
        data = {clip: {"supervision": line} for clip, line in supervision.items()}
        for clip in self.wav.keys() & data.keys():
            data[clip]["speech"] = read_audio(self.wav[clip])[::-1]
        batch = pad_batch([(clip, self.targets(clip, arrays)) for clip, arrays in data.items()])[1]
        batch = {name: value.to(self.device) for name, value in batch.items()}
        audio = None
        if self.targets.with_audio:
            audio = self.model.positions(self.model.hear(batch["speech"], batch["speech_lengths"]))
        logits, middle = self.model.predict(batch["prompt"], batch["prompt_lengths"], batch["target"],
                                            batch["target_lengths"], audio, batch.get("enrolled"), list(data))
        right = (logits.argmax(-1) == batch["target"]).tolist()
        for k, (clip, line) in enumerate(supervision.items()):
            segments = self.targets.segments([clip], [line])
            _, registered, _ = self.targets.draw([clip], segments)
            target = self.targets.target(segments, registered.names)
            count_labels(target, right[k], counts)
            if middle is not None and registered.speakers:
                found = self.model.answer_voice.found(middle[k]).cpu()
                self._count_voices(target, registered, found, batch["saying"][k].tolist(), batch["enrolled"][k].cpu(),
                                   counts)

    def _count_voices(self, target: Encoded, registered: Registered, found: torch.Tensor, saying: Sequence[int],
                      enrolled: torch.Tensor, counts: LabelAccuracy) -> None:
        """Add the voices that a clip's labels were predicted from.

        Args:
            found: ``(U, E)`` voices that the states tell which predict the tokens.
            saying: ``(U,)``, 0 for speakers without a voice.
            enrolled: ``(R, E)``, those of ``registered`` and then, without audio, one heard for each label.
        """
        voices = F.normalize(enrolled[: len(registered.speakers)], dim=-1)
        heard = iter(enrolled[len(registered.speakers) :])
        for k, _ in labels_of(target):
            if not saying[k]:
                continue
            voice = None if self.targets.with_audio else next(heard)
            if target.speakers[k] not in registered.speakers:
                continue
            own = registered.speakers.index(target.speakers[k])
            counts.add(FOUND, int((voices @ found[k]).argmax()) == own)
            if voice is not None:
                counts.add(HEARD, int((voices @ voice).argmax()) == own)


def labels_of(target: Encoded) -> list[tuple[int, int]]:
    """Return first and last place, not included, of each label among the tokens of ``target``."""
    runs, place = [], 0
    for (kind, _), run in groupby(zip(target.types, target.speakers)):
        size = len(list(run))
        if kind == SPEAKER:
            runs.append((place, place + size))
        place += size
    return runs


def count_labels(target: Encoded, right: Sequence[bool], counts: LabelAccuracy) -> None:
    """Add the labels of a clip; one is right when all of its tokens, of which ``right`` tells ``(U,)``, are."""
    seen: set[str] = set()
    for begin, end in labels_of(target):
        speaker = target.speakers[begin]
        counts.add(RETURNS if speaker in seen else NEW if seen else FIRST, all(right[begin:end]))
        seen.add(speaker)
