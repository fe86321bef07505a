"""Decode a directory of clips with a model that transcribes batches; write SegLST, talker counts and timing."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Sequence, TypeVar

import numpy as np
import torch

from espnet_mt_llm.common import Pathlike, UserError, at, from_mapping, is_whole, load_yaml, progress
from espnet_mt_llm.datadir.audio import read_audio
from espnet_mt_llm.datadir.maps import read_map
from espnet_mt_llm.datadir.stretches import read_rows
from espnet_mt_llm.text.serialisation import Order
from espnet_mt_llm.train.preprocess import as_samples

C = TypeVar("C", bound="RunConfig")


@dataclass(frozen=True)
class RunConfig:
    """What every decoding configuration may say.

    Attributes:
        batch_size: clips decoded together; clips of like length share a batch.
        weights: file of the weights; the best there are when empty.
        num_threads: CPU threads.
        device: ``cpu``, ``cuda`` …
    """

    batch_size: int = 16
    weights: str = ""
    num_threads: int = 1
    device: str = "cpu"

    @classmethod
    def load(cls: type[C], path: Optional[Pathlike] = None, **changes: Any) -> C:
        """Read a YAML file (the defaults without one), apply ``changes`` that are not None, and check the values.

        Raises:
            UserError: an unknown key or a value that makes no sense.
        """
        where = path or "decode options"
        values = (load_yaml(path) or {}) if path else {}
        config = from_mapping(cls, values, where)
        config = replace(config, **{key: value for key, value in changes.items() if value is not None})
        config.check(where)
        return config

    def check(self, where: Pathlike) -> None:
        """Check the values.

        Raises:
            UserError: one that makes no sense.
        """
        for key in ("batch_size", "num_threads"):
            check_positive(getattr(self, key), key, where)
        if not isinstance(self.weights, str):
            raise at(where, None, f"weights: {self.weights!r}", "a file in the training's output is expected")
        check_device(self.device, where)


def check_device(device: Any, where: Pathlike) -> None:
    """Refuse what is no device, or one that is not there."""
    try:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise at(where, None, f"device: {device}, but torch finds no GPU", "use device: cpu")
    except (RuntimeError, TypeError):
        raise at(where, None, f"device: {device!r}", "use cpu, cuda or cuda:<n>") from None


def check_positive(value: Any, key: str, where: Pathlike) -> None:
    """Refuse what is no whole number of at least 1."""
    if not is_whole(value) or value < 1:
        raise at(where, None, f"{key}: {value!r}", "a whole number of at least 1 is expected")


@dataclass(frozen=True)
class DecodeConfig(RunConfig):
    """What `conf/decode_sctc.yaml` may say.

    Attributes:
        count: ``head`` routes by the talker-count head, ``oracle`` by the reference, ``forced`` by ``num_talkers``.
        num_talkers: for ``forced``.
    """

    count: str = "head"
    num_talkers: Optional[int] = None

    def check(self, where: Pathlike) -> None:
        """Check the values."""
        super().check(where)
        if self.count not in ("head", "oracle", "forced"):
            raise at(where, None, f"count: '{self.count}'", "it is head, oracle or forced")
        if (self.count == "forced") != (self.num_talkers is not None):
            raise at(where, None, f"count: {self.count} with num_talkers: {self.num_talkers}",
                     "num_talkers goes with count: forced")
        if self.num_talkers is not None:
            check_positive(self.num_talkers, "num_talkers", where)

    def describe(self) -> str:
        """Say how the talkers are counted, e.g. ``forced:2``."""
        return f"forced:{self.num_talkers}" if self.count == "forced" else self.count


def clip_samples(data_dir: Path) -> dict[str, int]:
    """Return the number of samples of each clip of ``data_dir``.

    Raises:
        UserError: the directory is no directory of clips.
    """
    path, repair = data_dir / "utt2num_samples", "make the clips again (stage 3)"
    sizes = {}
    for line, (clip, number) in read_rows(path, 2, repair):
        if not number.isdecimal():
            raise at(path, line, f"'{number}' is no number of samples", repair)
        sizes[clip] = int(number)
    return sizes


def clip_batches(data_dir: Path, batch_size: int, job: int, num_jobs: int) -> list[list[str]]:
    """Share the clips of ``data_dir`` among ``num_jobs`` and put those of like length into batches, longest first.

    Raises:
        UserError: the directory is no directory of clips.
    """
    sizes = clip_samples(data_dir)
    lost = sizes.keys() - read_map(data_dir / "wav.scp").keys()
    if lost:
        raise at(data_dir / "wav.scp", None, f"the clip '{min(lost)}' is not there", "make the clips again (stage 3)")
    order = sorted(sizes, key=lambda clip: (-sizes[clip], clip))
    # Every num_jobs-th clip, so that the jobs get the same amount of audio.
    mine = order[job - 1 :: num_jobs]
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


class Transcriber:
    """A loaded sctc model and its tokenizer.

    Args:
        model_dir: the training's output.
        config: how to decode.
    """

    def __init__(self, model_dir: Pathlike, config: DecodeConfig) -> None:
        from espnet_mt_llm.inference.model import load_model, task_class

        torch.set_num_threads(config.num_threads)
        torch.set_flush_denormal(True)
        begin = time.perf_counter()
        self.config = config
        self.model, self.args, self.weights = load_model(model_dir, "sctc", config.weights, config.device)
        if config.count == "forced" and config.num_talkers > self.model.max_talkers:
            raise UserError(f"num_talkers: {config.num_talkers}: the model {model_dir} separates "
                            f"{self.model.max_talkers} talkers at most; give a smaller number")
        self.tokenizer = task_class("sctc").tokenizer(self.args)
        record = Path(model_dir) / "environment.json"
        self.training = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
        self.load_seconds = time.perf_counter() - begin

    def __call__(self, clips: Sequence[np.ndarray], counts: Optional[Sequence[int]] = None
                 ) -> tuple[list[list[str]], list[int]]:
        """Return the texts of the talkers of each clip in onset order, and the talker count of the head.

        Args:
            clips: samples ``(N,)`` each.
            counts: route by these counts instead of the head's.
        """
        lengths = torch.tensor([len(c) for c in clips])
        speech = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(c) for c in clips], batch_first=True)
        device = self.config.device
        routed = None if counts is None else torch.tensor(counts, device=device)
        texts, predicted = self.model.transcribe(speech.to(device), lengths.to(device), routed)
        return [[self.tokenizer.decode(ids) for ids in clip] for clip in texts], predicted.tolist()


def _reference_counts(data_dir: Path) -> dict[str, int]:
    path = data_dir / "utt2num_spk"
    if not path.exists():
        raise at(path, None, "no such file", "count: oracle needs the reference talker counts")
    return {clip: int(n) for clip, n in read_map(path).items()}


def decode(model_dir: Pathlike, data_dir: Pathlike, config: DecodeConfig, job: int = 1, num_jobs: int = 1,
           transcriber: Optional[Transcriber] = None) -> tuple[list[dict], dict[str, int], dict[str, Any]]:
    """Decode the clips of one job; return SegLST segments, predicted talker counts, and the record of the run.

    The k-th talker of a clip is the speaker ``str(k)``; segments have no times, because serialized CTC gives none.
    """
    data_dir = Path(data_dir)
    batches = clip_batches(data_dir, config.batch_size, job, num_jobs)
    wav = read_map(data_dir / "wav.scp")
    reference = _reference_counts(data_dir) if config.count == "oracle" else {}
    run = transcriber or Transcriber(model_dir, config)
    segments, counts, audio_seconds, wall = [], {}, 0.0, 0.0
    for clips in progress(batches, f"decoding {data_dir.name}"):
        begin = time.perf_counter()
        samples = [as_samples(read_audio(wav[clip])[::-1], run.args.rate, clip) for clip in clips]
        given = None
        if config.count != "head":
            given = [reference[c] if config.count == "oracle" else config.num_talkers for c in clips]
        texts, predicted = run(samples, given)
        wall += time.perf_counter() - begin
        for clip, talkers, count, speech in zip(clips, texts, predicted, samples):
            seconds = len(speech) / run.args.rate
            audio_seconds += seconds
            counts[clip] = count
            segments += [{"session_id": clip, "speaker": str(k), "words": text} for k, text in enumerate(talkers)]
    order = Order(**(run.args.order_conf or {}))
    record = {
        "audio_seconds": round(audio_seconds, 3), "wall_seconds": round(wall, 3),
        "load_seconds": round(run.load_seconds, 3), "batch_size": config.batch_size, "device": config.device,
        "num_threads": config.num_threads, "count": config.describe(), "weights": str(run.weights),
        "parameters": sum(p.numel() for p in run.model.parameters()), "profile": run.args.profile,
        "training": run.training, "sot_order": order.order, "tie_rule": order.describe(),
    }
    return segments, counts, record
