"""Single-speaker stretches of a pool as training data of speaker extractors."""

import math
from pathlib import Path
from typing import Sequence

import numpy as np
import torch

from espnet_mt_llm.common import Pathlike, at
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.stretches import Pool, Stretch
from espnet_mt_llm.train.collate import pad_batch
from espnet_mt_llm.train.preprocess import as_samples, change_speed


def read_pool(dump_dir: Pathlike) -> Pool:
    """Read the file ``enrolment`` of a dump dir.

    Raises:
        UserError: there is none, it does not read, or fewer than two speakers are in it.
    """
    path = Path(dump_dir) / "enrolment"
    if not path.is_file():
        raise at(path, None, "no such file", "list the stretches: ./run.sh --system <this one> --stage enroll "
                                             "--stop_stage enroll --enrolment true")
    pool = Pool.read(path)
    if len(pool.speakers) < 2:
        raise at(path, None, f"stretches of {len(pool.speakers)} speakers, at least 2 are needed",
                 "take another set, or shorter stretches: make_enrolment --min")
    return pool


def find(pool: Pool, number: int) -> tuple[int, Stretch]:
    """Return the number of the speaker of a stretch, and the stretch itself."""
    k = int(np.searchsorted(pool.first, number, side="right")) - 1
    return k, pool.stretch(pool.speakers[k], number)


def read_stretch(stretch: Stretch, rate: int) -> np.ndarray:
    """Return the samples ``(N,)`` of a stretch.

    Raises:
        UserError: audio that cannot be read, or of another rate.
    """
    samples, found = read_audio(stretch.wav, stretch.start, stretch.end, stretch.channel)
    return as_samples((found, samples), rate, stretch.id)


class StretchDataset(torch.utils.data.Dataset):
    """The stretches of a pool by their numbers, as strings: ``speech`` ``(N,)`` and ``speaker`` ``(1,)``.

    Args:
        pool: the stretches.
        rate: sampling rate in Hz.
        longest: seconds; of a longer stretch a part is taken, at random while training, else the begin.
        shortest: seconds; a shorter stretch is repeated up to this.
        speeds: while training one of them is drawn; a voice at another speed is another speaker. Empty: as it is.
        train: whether to draw.
    """

    def __init__(self, pool: Pool, rate: int, longest: float, shortest: float = 0.0, speeds: Sequence[float] = (),
                 train: bool = False) -> None:
        self.pool, self.rate, self.train = pool, rate, train
        self.longest, self.shortest = round(longest * rate), round(shortest * rate)
        self.speeds = tuple(dict.fromkeys(speeds)) if train and speeds else (1.0,)

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, uid: str) -> tuple[str, dict[str, np.ndarray]]:
        speaker, stretch = find(self.pool, int(uid))
        samples = read_stretch(stretch, self.rate)
        draw = np.random.randint(len(self.speeds)) if self.train else 0
        samples = change_speed(samples, self.speeds[draw])
        samples = np.tile(samples, math.ceil(self.shortest / len(samples)) or 1)
        first = np.random.randint(len(samples) - self.longest + 1) if self.train and len(samples) > self.longest else 0
        label = speaker + draw * len(self.pool.speakers)
        return stretch.id, {"speech": samples[first : first + self.longest], "speaker": np.array([label])}


class CropBatch:
    """Cut the stretches of a batch to one length, drawn anew for each batch, so that nothing is padded in training.

    Args:
        shortest, longest: samples; every stretch has ``longest``.
        talk_over: share of the stretches that another one is heard in, see :func:`talked_over`.
    """

    def __init__(self, shortest: int, longest: int, talk_over: float = 0.0) -> None:
        self.shortest, self.longest, self.talk_over = shortest, longest, talk_over

    def __call__(self, stretches: Sequence[tuple[str, dict[str, np.ndarray]]]
                 ) -> tuple[list[str], dict[str, torch.Tensor]]:
        """Return the ids and the batch."""
        size = np.random.randint(self.shortest, self.longest + 1)
        speech = np.stack([data["speech"][:size] for _, data in stretches])
        if self.talk_over:
            speech = talked_over(speech, self.talk_over)
        return pad_batch([(uid, {**data, "speech": own}) for (uid, data), own in zip(stretches, speech)])


def talked_over(speech: np.ndarray, share: float) -> np.ndarray:
    """Return stretches ``(B, N)`` of which a ``share`` is talked over by the one before, as in conversations.

    That one is heard in a random part, half of the stretch at most, at the beginning or at the end, and by -5 to 15 dB
    softer.
    """
    out, size = speech.copy(), speech.shape[1]
    for i in np.flatnonzero(np.random.random(len(speech)) < share):
        other = speech[i - 1]
        length = np.random.randint(1, size // 2 + 1)
        part = slice(0, length) if np.random.random() < 0.5 else slice(size - length, size)
        loudness = np.sqrt(np.mean(np.square(speech[i])) / max(np.mean(np.square(other)), 1e-10))
        out[i, part] += other[:length] * loudness * 10 ** (-np.random.uniform(-5, 15) / 20)
    return out


def chosen_evenly(pool: Pool, per_speaker: int) -> list[str]:
    """Return the numbers of at most ``per_speaker`` stretches of each speaker, evenly over what there is."""
    numbers = []
    for spk in pool.speakers:
        own = pool.of(spk)
        count = min(per_speaker, len(own))
        numbers += [str(own[i * len(own) // count]) for i in range(count)]
    return numbers
