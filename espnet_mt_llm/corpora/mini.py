"""A small multi-speaker corpus of our own: sentences of a small grammar, spoken by espeak-ng voices.

Fact sheet. 62 speakers: each is another espeak-ng voice variant with its own pitch, pitch range and speed. 48 of
them train, 6 are for development, 8 for test. 2,400 + 200 + 300 utterances of 3-7 words, 1.4 hours, 16 kHz mono (made
at 22.05 kHz). English: 61 words. Mandarin (``lang="zh"``): 42 words, transcripts in characters. Unseen in test are
the speakers and every sentence (a sentence belongs to one split, by its hash). All words occur in every split.

Beside each split there is its crowd, many voices that say little: each variant of the split at four pitches and speeds,
in training also twelve times with a vocal tract of another length (what is spoken is resampled, which moves the
formants), and in the test eight further variants. 768 + 24 + 64 speakers, called by names of three or four letters; 8,
8 and 16 utterances each. The crowd of the test is there once more (``test_tracts_crowd``), each of its 64 speakers with
a vocal tract of his own, as people have: without it several are one voice at another pitch. 4 hours. Conversations are
made of crowds, and others than who talks can be registered.
Silence before and after is cut to 20 ms, so segments are tight. The recordings lie in ``<root>/<lang>/<speaker>/``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional

import numpy as np

from espnet_mt_llm.common import Chance, Pathlike, UserError, derive_seed, nearest
from espnet_mt_llm.corpora import speech
from espnet_mt_llm.corpora.espeak import speak
from espnet_mt_llm.datadir.audio import duration, write_audio
from espnet_mt_llm.datadir.kaldi import DataDir, Utterance, make_utt_id

NUM_UTTERANCES = {"train": 2400, "dev": 200, "test": 300, "train_crowd": 6144, "dev_crowd": 192, "test_crowd": 1024,
                  "test_tracts_crowd": 1024}
DEBUG_NUM_UTTERANCES = {"train": 96, "dev": 12, "test": 16, "train_crowd": 32, "dev_crowd": 24, "test_crowd": 32,
                        "test_tracts_crowd": 32}
RATE = 16000
_VERSION = 1  # of the making; another one makes the recordings again

# Voices that whisper, croak or pretend to be robots are left out; voices of one family are in one split.
VARIANTS = {
    "train": ("Alex Alicia Andy Annie Denis Diogo Henrique Hugo Marco Mario Michael Mike Nguyen Reed adam anika "
              "announcer antonio benjamin boris david edward f1 f2 f4 grandma grandpa ian iven john m1 m2 m4 m5 "
              "m7 m8 max michel miguel norbert pablo pedro quincy rob sandro steph travis zac").split(),
    "dev": "f5 m6 Gene aunty robert victor".split(),
    "test": "f3 m3 Andrea paul linda gustave Lee belinda".split(),
}
# Of the crowd of the test alone; a recogniser makes as many errors on them as on the others.
MORE_VARIANTS = {"test": "Jacky Storm Tweaky marcelo ed klatt klatt4 klatt5".split()}
CROWD = "_crowd"
TRACTS = "test_tracts"  # the crowd of the test with vocal tracts of their own
_CONSONANTS, _VOWELS = "bdfghjklmnrtvz", "aeiou"
_PITCHES = 4
_REGISTERS = {"train": 16}  # voices of a variant in a crowd, default: one of each pitch
_GROUP = 8  # voices of a crowd that are there before the next ones, so that a small crowd has few voices


@dataclass(frozen=True)
class Grammar:
    """Word classes and the sentences they build: each sentence is a sequence of class names."""

    voice: str
    separator: str
    classes: Mapping[str, tuple[str, ...]]
    sentences: tuple[tuple[str, ...], ...]

    def draw(self, chance: Chance) -> str:
        """Draw a sentence; no word occurs twice in it."""
        words: list[str] = []
        for name in chance.pick(self.sentences):
            words.append(chance.pick([word for word in self.classes[name] if word not in words]))
        return self.separator.join(words)

    @property
    def words(self) -> list[str]:
        """Return the vocabulary."""
        return sorted({word for words in self.classes.values() for word in words})


def _grammar(voice: str, separator: str, classes: Mapping[str, str], sentences: str) -> Grammar:
    return Grammar(voice, separator, {name: tuple(words.split()) for name, words in classes.items()},
                   tuple(tuple(line.split()) for line in sentences.strip().splitlines()))


GRAMMARS = {
    "en": _grammar("en-us", " ", {
        "det": "the my your this every",
        "adj": "old young happy little clever tired",
        "who": "dog bird sister brother teacher doctor farmer cat boy girl king",
        "does": "paints finds carries likes opens sells breaks washes",
        "acts": "sleeps waits sings runs",
        "color": "red green yellow black",
        "what": "table window garden bottle letter basket house mirror apple chair",
        "near": "near behind under",
        "where": "river mountain station market bridge",
        "when": "today slowly often again now",
    }, """
        det who acts
        det who acts when
        when det who acts
        det adj who acts
        det who does det what
        det who does det color what
        det adj who does det what
        det adj who does det color what
        det who acts near det where
        det adj who acts near det where
    """),
    "zh": _grammar("cmn", "", {
        "who": "老师 医生 妹妹 哥哥 朋友 学生 农民 小狗 小猫",
        "adj": "年轻的 高兴的 聪明的",
        "does": "喜欢 打开 看见 买了 画了",
        "color": "红色的 绿色的 黑色的 白色的",
        "what": "苹果 窗户 桌子 房子 杯子 书包 花园",
        "acts": "睡觉 唱歌 跑步 等车",
        "where": "在河边 在山上 在车站 在学校 在公园",
        "when": "今天 明天 昨天 现在 常常",
    }, """
        who when acts
        who where acts
        when who acts
        adj who where acts
        who does what
        who does color what
        adj who does what
        when who where acts
        when who does what
        adj who does color what
    """),
}


@dataclass(frozen=True)
class Speaker:
    """A voice: espeak-ng's variant, words per minute, pitch and pitch range (0-100), formants in percent of its own."""

    id: str
    variant: str
    speed: int
    pitch: int
    pitch_range: int
    formants: int = 100


@dataclass(frozen=True)
class _Recording:
    """One recording to make."""

    out: str
    voice: str
    text: str
    speaker: Speaker


def speakers_of(name: str, seed: int) -> list[Speaker]:
    """Return the speakers of a split or of its crowd; their manner of speaking is drawn from the seed."""
    if name.endswith(CROWD):
        return _crowd_of(name.removesuffix(CROWD), seed)
    found = []
    for variant in VARIANTS[name]:
        chance = Chance(seed, "mini speaker", variant)
        speed, pitch, pitch_range = 140 + chance.index(51), 25 + chance.index(51), 35 + chance.index(31)
        found.append(Speaker(variant.lower(), variant, speed, pitch, pitch_range))
    return found


def _crowd_of(name: str, seed: int) -> list[Speaker]:
    """Return a crowd: all variants in the first register, then all in the second one, and so on."""
    ids, split = iter(_names(name, seed)), _split(name)
    found = []
    for register in range(_registers(split)):
        for variant in _crowd_variants(split):
            chance = Chance(seed, "mini crowd", variant, register)
            speed, pitch = 140 + chance.index(51), 20 + 15 * (register % _PITCHES) + chance.index(6)
            pitch_range = 35 + chance.index(31)
            formants = 100
            if register >= _PITCHES:
                formants = 86 + chance.index(31)
            elif name == TRACTS:  # longer ones have lower voices
                formants = 86 + 8 * register + chance.index(6)
            found.append(Speaker(next(ids), variant, speed, pitch, pitch_range, formants))
    return found


def _split(name: str) -> str:
    return "test" if name == TRACTS else name


def _crowd_variants(split: str) -> list[str]:
    return [*VARIANTS[split], *MORE_VARIANTS.get(split, ())]


def _registers(split: str) -> int:
    return _REGISTERS.get(split, _PITCHES)


def _names(crowd: str, seed: int) -> list[str]:
    """Return the names of a crowd, drawn from all of three letters that sound like one, then of four."""
    three = [a + b + c for a in _CONSONANTS for b in _VOWELS for c in "lmnrs"]
    drawn = iter(Chance(seed, "mini names").sample(three, len(three)))
    taken = {name: [next(drawn) for _ in range(_PITCHES * len(_crowd_variants(_split(name))))]
             for name in (*VARIANTS, TRACTS)}
    four = [a + b + c + d for a in _CONSONANTS for b in _VOWELS for c in _CONSONANTS for d in _VOWELS]
    drawn = iter(Chance(seed, "mini longer names").sample(four, len(four)))
    for name in VARIANTS:
        taken[name] += [next(drawn) for _ in range((_registers(name) - _PITCHES) * len(_crowd_variants(name)))]
    return taken[crowd]


def split_of(sentence: str) -> str:
    """Return the one split that a sentence may occur in: 7 of 10 sentences train, 1 dev, 2 test."""
    return ("dev", "test", "test")[place] if (place := derive_seed("mini", sentence) % 10) < 3 else "train"


def draw_recordings(name: str, number: int, lang: str, root: Path, seed: int) -> list[_Recording]:
    """Draw the recordings of a split or a crowd; speakers take turns, and the first do not depend on ``number``."""
    grammar = GRAMMARS[lang]
    speakers = speakers_of(name, seed)
    crowd = name.endswith(CROWD)
    # A crowd comes in groups: all that its first voices say, then the next ones.
    together = _GROUP if crowd else len(speakers)
    block = NUM_UTTERANCES[name] // len(speakers) * together if crowd else number
    recordings = []
    for index in range(number):
        speaker = speakers[index // block * together + index % together]
        chance = Chance(seed, "mini", lang, name, index)
        text = grammar.draw(chance)
        while split_of(text) != _split(name.removesuffix(CROWD)):
            text = grammar.draw(chance)
        out = root / lang / speaker.id / f"mini_{lang}_{name}_{index:05d}.flac"
        recordings.append(_Recording(str(out), f"{grammar.voice}+{speaker.variant}", text, speaker))
    return recordings


def prepare(root: Pathlike, out: Pathlike, lang: str = "en", num_utterances: Optional[Mapping[str, int]] = None,
            seed: int = 1, nj: int = 1) -> dict[str, int]:
    """Make the recordings below ``root`` and the data directories ``out/<set>``; return set -> utterances.

    A second run gives the same bytes and makes only what is missing; a smaller corpus is the beginning of a larger one.

    Raises:
        UserError: an unknown language, or espeak-ng is not there.
    """
    if lang not in GRAMMARS:
        raise UserError(f"no grammar for the language '{lang}'; {nearest(lang, GRAMMARS)}")
    numbers = dict(num_utterances or NUM_UTTERANCES)
    speech.same_making(Path(root) / lang, {"corpus": "mini", "version": _VERSION, "seed": seed, "rate": RATE})
    for name, number in numbers.items():
        recordings = draw_recordings(name, number, lang, Path(root), seed)
        missing = [r for r in recordings if not Path(r.out).exists()]
        speech.in_parallel(make_recording, missing, nj, f"mini {lang} {name}")
        _write_data_dir(recordings, Path(out) / name)
    return numbers


def make_recording(recording: _Recording) -> None:
    """Speak, resample to 16 kHz, trim, set the level, write."""
    from math import gcd

    from scipy.signal import resample_poly

    who = recording.speaker
    # Played faster, the formants are higher; it is spoken slower by as much.
    spoken, rate = speak(recording.voice, recording.text, round(who.speed * 100 / who.formants), who.pitch,
                         who.pitch_range)
    rate = rate * who.formants // 100
    common = gcd(rate, RATE)
    samples = resample_poly(spoken.astype(np.float32) / 32768, RATE // common, rate // common)
    samples = speech.set_level(speech.trim(samples.astype(np.float32, copy=False), RATE))
    write_audio(recording.out, speech.whole_centiseconds(samples, RATE), RATE)


def _write_data_dir(recordings: list[_Recording], out: Path) -> None:
    wav, utterances, reco2dur = {}, [], {}
    for r in recordings:
        rec, spk = Path(r.out).stem, r.speaker.id
        wav[rec], reco2dur[rec] = r.out, duration(r.out)
        utterances.append(Utterance(make_utt_id(spk, rec, 0, reco2dur[rec]), rec, spk, 0.0, reco2dur[rec], r.text))
    DataDir(out, wav, utterances, reco2dur).write(out)
