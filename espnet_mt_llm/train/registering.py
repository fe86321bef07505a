"""Who is registered with a training clip: drawn anew each time from the pool of the set, nothing from inside the clip.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from espnet_mt_llm.common import Chance, Pathlike, UserError, at, is_whole
from espnet_mt_llm.datadir.enrolment import Heard, Registration, register
from espnet_mt_llm.datadir.kaldi import clip_times
from espnet_mt_llm.datadir.stretches import Pool, Span, read_text_lines
from espnet_mt_llm.nets.registration import choose
from espnet_mt_llm.text.names import check_name, name_key, name_speakers

# So many voices are the rivals of a speaker.
NEAREST = 16


@dataclass(frozen=True)
class Registering:
    """How speakers are registered.

    Attributes:
        mode: ``none``, ``match``, ``over``, or ``mixed`` for a third of each.
        num_stretches: at most so many are averaged for a speaker.
        max_distractors, min_distractors: N_ov is drawn between them.
        seed: of the draws for validation, which are the same in every epoch.
        shuffle_names: call speakers by names that are drawn for each clip: where voices are few, a model could learn
            their names by heart and pass over what is registered.
        names: file of these names, one a line; those of the set without it.
        rivals: share of the distractors whose voices are among the :data:`NEAREST` to one of the clip's speakers. Where
            the extractor has learnt the training voices, they are further apart than those of the test; comparing
            must be learnt on near ones.
    """

    mode: str = "none"
    num_stretches: int = 3
    max_distractors: int = 50
    min_distractors: int = 1
    seed: int = 0
    shuffle_names: bool = False
    names: Optional[str] = None
    rivals: float = 0.0

    def __post_init__(self) -> None:
        for key in ("num_stretches", "max_distractors", "min_distractors", "seed"):
            value = getattr(self, key)
            if not is_whole(value):
                raise ValueError(f"{key}: {value!r} is no whole number")
        if self.names is not None and not isinstance(self.names, str):
            raise ValueError(f"names: {self.names!r} is no file")
        if self.num_stretches < 1 or not 1 <= self.min_distractors <= self.max_distractors:
            raise ValueError(f"{self.num_stretches} stretches, {self.min_distractors} to {self.max_distractors} "
                             "distractors: expected 1 or more, in this order")
        if self.names and not self.shuffle_names:
            raise ValueError(f"names: {self.names} is drawn from with shuffle_names: true alone")
        if not 0 <= self.rivals <= 1:
            raise ValueError(f"rivals: {self.rivals} is no share, 0 to 1")


@dataclass(frozen=True)
class Registered:
    """What is registered with a clip, in the order of the prompt.

    Attributes:
        speakers: their ids.
        names: what they are called, by id.
        stretches: what each one's voice is taken from.
    """

    speakers: Sequence[str]
    names: Mapping[str, str]
    stretches: Sequence[Sequence[str]]


class Registrar:
    """Draws registrations for the clips of a dump dir with the file ``enrolment``.

    A speaker of the clip without a stretch outside of it cannot be registered: he keeps a number.

    Args:
        dump_dir: the clips.
        settings: how.

    Raises:
        UserError: no pool, an empty one, or a file of names that is none.

    Attributes:
        names: of the speakers of the set, by id.
        supply: names that are drawn with ``shuffle_names``.
    """

    def __init__(self, dump_dir: Pathlike, settings: Registering) -> None:
        self.dump_dir, self.settings = Path(dump_dir), settings
        path = self.dump_dir / "enrolment"
        if not path.is_file():
            raise at(path, None, "no such file; registration needs a pool of stretches",
                     "list them: ./run.sh --system <this one> --stage enroll --stop_stage enroll --enrolment true")
        self.pool = Pool.read(path)
        self.names = name_speakers(self.pool.speakers)
        self.supply = read_names(settings.names) if settings.names else list(self.names.values())
        self._session_of = {**{session: session for session in self.pool.sessions},
                            **dict(zip(self.pool.recs, self.pool.sessions))}
        self._mixed = self._read_mixtures(self.dump_dir / "mixtures.jsonl")
        self._rivals: dict[str, list[str]] = {}
        self._speakers_of: dict[str, set[str]] = {}
        sessions = self.pool.sessions
        for k, spk in enumerate(self.pool.speakers):
            for rec in np.unique(self.pool.rec[self.pool.first[k] : self.pool.first[k + 1]]):
                self._speakers_of.setdefault(sessions[rec], set()).add(spk)

    def draw(self, clips: Sequence[str], speakers: Sequence[str], chance: Chance) -> Registered:
        """Draw what is registered with one clip, or with several that are heard one after the other.

        Args:
            clips: their ids.
            speakers: who talks in them.
            chance: the same gives the same.

        Raises:
            UserError: there is no distractor where one is needed.
        """
        mode, settings = self.settings.mode, self.settings
        if mode == "mixed":
            mode = chance.pick(("match", "none", "over"))
        if mode == "none":
            return Registered((), {}, ())
        made = self._register(clips, speakers, settings.max_distractors if mode == "over" else 0, chance)
        known = [spk for spk, stretches in made.speakers.items() if stretches]
        if mode == "over" and not made.distractors:
            raise UserError(f"{self.dump_dir / 'enrolment'}: no speaker of another session than that of clip "
                            f"'{clips[0]}'; use the registration match, or a larger set")
        distractors = self._with_rivals(clips, known, made.distractors, chance) if mode == "over" else ()
        chosen = choose(mode, known, distractors, chance, settings.max_distractors, settings.min_distractors)
        stretches = [made.speakers.get(spk) or self._any(spk, chance) for spk in chosen]
        names = [self.names[spk] for spk in chosen]
        if settings.shuffle_names:
            if len(chosen) > len(self.supply):
                raise UserError(f"{settings.names}: {len(self.supply)} names for the {len(chosen)} speakers registered "
                                f"with clip '{clips[0]}'; add names, or lower max_distractors")
            names = chance.sample(self.supply, len(chosen))
        return Registered(chosen, dict(zip(chosen, names)), stretches)

    def own(self, clips: Sequence[str], speakers: Sequence[str], chance: Chance, besides: Collection[str] = ()
            ) -> Registered:
        """Draw what those of ``speakers`` who can be registered would be registered from; they get no names.

        Args:
            besides: stretches that are passed over, while a speaker has others.
        """
        made = self._register(clips, speakers, 0, chance, besides)
        known = [spk for spk in speakers if made.speakers[spk]]
        return Registered(known, {}, [made.speakers[spk] for spk in known])

    def know(self, embeddings: Mapping[str, np.ndarray]) -> None:
        """Take the ``embeddings`` ``(E,)`` of the stretches, and find out who sounds like whom where that is needed."""
        if not self.settings.rivals:
            return
        means = np.stack([np.mean([embeddings[self.pool.stretch(spk, n).id] for n in self.pool.of(spk)], axis=0)
                          for spk in self.pool.speakers])
        means /= np.linalg.norm(means, axis=1, keepdims=True) + 1e-12
        for k, spk in enumerate(self.pool.speakers):
            nearest = [i for i in np.argsort(-(means @ means[k])) if i != k][:NEAREST]
            self._rivals[spk] = [self.pool.speakers[i] for i in nearest]

    def _with_rivals(self, clips: Sequence[str], speakers: Sequence[str], distractors: Sequence[str], chance: Chance
                     ) -> Sequence[str]:
        """Return as many distractors, the wanted share of them rivals of ``speakers``, if there are so many."""
        if not self._rivals:
            return distractors
        taken = {*speakers, *self._session(self._all_spans(clips))}
        near = [spk for spk in dict.fromkeys(r for who in speakers for r in self._rivals.get(who, ()))
                if spk not in taken]
        near = chance.sample(near, min(len(near), round(self.settings.rivals * len(distractors))))
        return [*near, *(spk for spk in distractors if spk not in near)][: len(distractors)]

    def _register(self, clips: Sequence[str], speakers: Sequence[str], distractors: int, chance: Chance,
                  besides: Collection[str] = ()) -> Registration:
        """Draw stretches of the speakers of clips, and distractors, by the rules of the pool."""
        spans = self._all_spans(clips)
        heard = Heard(" ".join(clips), speakers, self._session(spans), spans)
        return register(self.pool, heard, self.settings.num_stretches, distractors, chance, besides)

    def _all_spans(self, clips: Sequence[str]) -> list[Span]:
        return [span for clip in clips for span in self._spans(clip)]

    def _session(self, spans: Sequence[Span]) -> set[str]:
        """Return all who talk in the sessions of ``spans``."""
        return {spk for name, _, _ in spans for spk in self._speakers_of.get(name, ())}

    def expected(self, speakers: int) -> float:
        """Return how many are registered on average with a clip of so many speakers."""
        over = speakers + (self.settings.min_distractors + min(self.settings.max_distractors,
                                                               len(self.pool.speakers))) / 2
        return {"none": 0.0, "match": float(speakers), "over": over, "mixed": (speakers + over) / 3}[self.settings.mode]

    def _any(self, spk: str, chance: Chance) -> list[str]:
        """Draw stretches of a distractor."""
        own = self.pool.of(spk)
        numbers = chance.sample(own, min(len(own), self.settings.num_stretches))
        return [self.pool.stretch(spk, number).id for number in numbers]

    def _spans(self, clip: str) -> list[Span]:
        """Return what is heard in a clip: sessions of the pool and seconds; nothing where it has none of it."""
        if clip in self._mixed:
            return self._mixed[clip]
        if clip in self._session_of:
            return [(self._session_of[clip], 0.0, float("inf"))]
        return next(([(self._session_of[rec], start, end)] for rec, start, end in clip_times(clip)
                     if rec in self._session_of), [])

    def _read_mixtures(self, path: Path) -> dict[str, list[Span]]:
        """Return what the mixtures of a manifest were made from, as far as it is in the pool."""
        if not path.is_file():
            return {}
        by_name = {rec: [i] for i, rec in enumerate(self.pool.recs)}
        by_entry: dict[str, list[int]] = {}
        for i, (entry, _) in enumerate(self.pool.audio):
            by_entry.setdefault(entry, []).append(i)
        found: dict[str, list[Span]] = {}
        for line, text in enumerate(read_text_lines(path, "make the manifest first (stage 2)"), 1):
            try:
                mixture = json.loads(text)
                found[mixture["id"]] = [(self.pool.sessions[i], s["start"], s["end"]) for s in mixture["sources"]
                                        for i in by_entry.get(s["wav"]) or by_name.get(s["utt"]) or ()]
            except (ValueError, KeyError, TypeError):
                raise at(path, line, "not a mixture", "make the manifest again (stage 2)") from None
        return found


def read_names(path: Pathlike) -> list[str]:
    """Read a file of names that speakers can be registered under, one a line; empty lines are passed over.

    Raises:
        UserError: no such file, a line that is no name, a name twice, or no name at all.
    """
    path = Path(path)
    names: dict[str, str] = {}
    for line, text in enumerate(read_text_lines(path, "write names there, one a line"), 1):
        name = text.strip()
        if not name:
            continue
        try:
            key = name_key(check_name(name))
        except UserError as e:
            raise at(path, line, str(e), "one name a line") from None
        if key in names:
            raise at(path, line, f"the name '{name}' is there twice", "take one of them out")
        names[key] = name
    if not names:
        raise at(path, None, "no name", "write names there, one a line")
    return list(names.values())


def voices(registered: Registered, embeddings: Optional[Mapping[str, np.ndarray]], size: int) -> np.ndarray:
    """Return the embeddings ``(R, E)`` of the registered speakers, each the mean over his stretches."""
    from espnet_mt_llm.inference.embeddings import speaker_vector

    if embeddings is None or not registered.speakers:
        return np.zeros((0, size), dtype=np.float32)
    return np.stack([speaker_vector(embeddings, stretches) for stretches in registered.stretches]).astype(np.float32)
