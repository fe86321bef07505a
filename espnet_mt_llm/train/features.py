"""What the encoders of a model give of the clips of a set: computed once when they are frozen, kept beside the clips.

Training data that need the model itself are made here, between its initialisation and the first epoch: the frames of
frozen encoders, and the embeddings of the stretches that speakers are registered from.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.train.dataset import ESPnetDataset

from espnet_mt_llm.common import Pathlike, UserError, atomic_open, progress
from espnet_mt_llm.datadir.maps import read_map, write_map
from espnet_mt_llm.inference.embeddings import stretch_embeddings
from espnet_mt_llm.models.speech_llm import KEEP, SpeechLLM
from espnet_mt_llm.train.position_batches import Rows
from espnet_mt_llm.train.preprocess import as_samples
from espnet_mt_llm.train.speech_llm_targets import SpeechLLMTargets
from espnet_mt_llm.train.trainer import Trainer

# Seconds of audio in a batch, padding counted.
BATCH = 60.0
# So many clips are sorted by length before batches are made of them, which then have hardly any padding.
SORTED = 64


class SpeechLLMTrainer(Trainer):
    """The trainer; before the first epoch the data get what only the model can give them."""

    @classmethod
    def run(cls, model: SpeechLLM, optimizers: Sequence, schedulers: Sequence, train_iter_factory: SequenceIterFactory,
            valid_iter_factory: SequenceIterFactory, plot_attention_iter_factory: Any, trainer_options: Any,
            distributed_option: Any) -> None:
        """See :meth:`Trainer.run`."""
        device = "cuda" if trainer_options.ngpu > 0 else "cpu"
        for factory in (train_iter_factory, valid_iter_factory):
            # The first process writes what the others then read.
            if distributed_option.distributed and distributed_option.dist_rank:
                torch.distributed.barrier()
            complete(factory, model, device)
            if distributed_option.distributed and not distributed_option.dist_rank:
                torch.distributed.barrier()
        super().run(model, optimizers, schedulers, train_iter_factory, valid_iter_factory, plot_attention_iter_factory,
                    trainer_options, distributed_option)


def complete(factory: SequenceIterFactory, model: SpeechLLM, device: str = "cpu") -> None:
    """Give the data of ``factory`` the embeddings of registered voices, and frames in place of audio, as it asks."""
    dataset: ESPnetDataset = factory.dataset
    targets: SpeechLLMTargets = dataset.preprocess
    introduce(targets, model, device)
    if targets.cache_features:
        sampler = factory.sampler
        clips = sampler.clips if hasattr(sampler, "clips") else [clip for batch in sampler.batches for clip in batch]
        speech = dataset.loader_dict["speech"]
        frames = cached_frames(dataset.debug_info["speech"][0], speech, list(clips), model, targets.rate, device)
        if isinstance(speech, Rows):
            frames = {name: Rows(reader) for name, reader in frames.items()}
        dataset.loader_dict = {**{name: reader for name, reader in dataset.loader_dict.items() if name != "speech"},
                               **frames}
        if model.uses_speaker:
            targets.speaker_frames = model.encoder.frame_shift / model.speaker_encoder.frame_shift


def introduce(targets: SpeechLLMTargets, model: SpeechLLM, device: str = "cpu") -> None:
    """Tell ``targets`` what ``model`` makes of the stretches of voices, and how long its frames are."""
    if targets.registrar is not None and model.speaker_encoder is not None:
        targets.at_speed = {speed: stretch_embeddings(targets.registrar.dump_dir, model.speaker_encoder, device=device,
                                                      speed=speed) for speed in {1.0, *targets.speed_factors}}
        targets.embedding_size = model.speaker_encoder.embedding_size
        targets.registrar.know(targets.at_speed[1.0])
    if model.encoder is not None:
        targets.frame_shift = model.encoder.frame_shift
        # With that loss frames of the encoder itself have voices.
        targets.stride = 1 if model.loss == KEEP else model.adapter.stride


def encoders_key(model: SpeechLLM) -> str:
    """Return a name for the frames of a model's encoders: a digest of their weights and of what is taken of them."""
    parts = {"encoder": model.encoder, **({"speaker_encoder": model.speaker_encoder} if model.uses_speaker else {})}
    taken = {"layers": list(model.encoder.layers), "chunks": model.uses_speaker and list(model.chunk_sizes),
             "raw": model.raw_chunks, "means": [getattr(part, "mean_window", None) for part in (model.encoder, model)],
             **{name: type(part).__name__ for name, part in parts.items()}}
    digest = hashlib.blake2b(json.dumps(taken, sort_keys=True).encode(), digest_size=8)
    for part in parts.values():
        for name, value in sorted(part.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cached_frames(audio: Pathlike, reader: Mapping, clips: Sequence[str], model: SpeechLLM, rate: int,
                  device: str = "cpu") -> dict[str, Mapping[str, np.ndarray]]:
    """Return readers ``semantic`` ``(T, D)`` and, with a speaker stream, ``speaker`` ``(T', E)`` of ``clips``.

    They lie in half precision in ``<dump>/features/<key>/<name>.ark``; missing clips are computed first, and all of
    them when ``audio`` is newer. Other weights, layers or chunks have another key.

    Args:
        audio: the file that ``reader`` reads, in the dump dir.
        reader: clip → (rate, samples).
        model: its encoders are frozen.
        rate: sampling rate in Hz.
    """
    names = ("semantic", "speaker") if model.uses_speaker else ("semantic",)
    folder = Path(audio).parent / "features" / encoders_key(model)
    known = _entries(folder, names, Path(audio))
    missing = [clip for clip in clips if clip not in known[names[-1]]]
    if missing:
        number = len(list(folder.glob("semantic.*.scp")))
        logging.info("%s: frames of %d clips", folder, len(missing))
        _write(folder, names, number, _frames(model, reader, missing, rate, device))
        known = _entries(folder, names, Path(audio))
    return {name: Arrays({clip: known[name][clip] for clip in clips}) for name in names}


class Arrays(Mapping):
    """Clip → array, read when asked for, from clip → ``<archive>:<offset>``."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> np.ndarray:
        return load_array(self._entries[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _entries(folder: Path, names: Sequence[str], audio: Path) -> dict[str, dict[str, str]]:
    """Return ``<archive>:<offset>`` of each clip; files older than the audio are removed."""
    found: dict[str, dict[str, str]] = {name: {} for name in names}
    for name in names:
        for scp in sorted(folder.glob(f"{name}.*.scp")):
            if scp.stat().st_mtime < audio.stat().st_mtime:
                scp.unlink()
                continue
            found[name] |= read_map(scp)
    return found


def _write(folder: Path, names: Sequence[str], number: int, clips: Iterable[tuple[str, list[np.ndarray]]]) -> None:
    """Write one archive for each name; their scp files come last, so that a killed run leaves none behind."""
    lines: dict[str, dict[str, str]] = {name: {} for name in names}
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_open(folder / f"{name}.{number}.ark", "wb")) for name in names]
        for clip, arrays in clips:
            for name, f, array in zip(names, files, arrays):
                f.write(f"{clip} ".encode())
                lines[name][clip] = f"{folder / f'{name}.{number}.ark'}:{f.tell()}"
                np.save(f, array)
    for name in names:
        write_map(folder / f"{name}.{number}.scp", lines[name])


def load_array(entry: str) -> np.ndarray:
    """Return the array at ``<archive>:<offset>``."""
    path, offset = entry.rsplit(":", 1)
    with open(path, "rb") as f:
        f.seek(int(offset))
        return np.load(f, allow_pickle=False)


@torch.no_grad()
def _frames(model: SpeechLLM, reader: Mapping, clips: Sequence[str], rate: int, device: str
            ) -> Iterator[tuple[str, list[np.ndarray]]]:
    training = model.training
    model.eval()
    try:
        batch: list[tuple[str, torch.Tensor]] = []
        for clip, samples in _by_length(progress(clips, "frames"), reader, rate):
            longest = max([len(samples), *(len(other) for _, other in batch)])
            if batch and longest * (len(batch) + 1) > BATCH * rate:
                yield from _frames_of_batch(model, batch, device)
                batch = []
            batch.append((clip, samples))
        yield from _frames_of_batch(model, batch, device)
    finally:
        model.train(training)


def _by_length(clips: Iterable[str], reader: Mapping, rate: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield clips and their samples, each :data:`SORTED` of them by length."""
    clips = iter(clips)
    while some := [(clip, torch.from_numpy(as_samples(reader[clip], rate, clip))) for clip in islice(clips, SORTED)]:
        yield from sorted(some, key=lambda item: len(item[1]))


def _frames_of_batch(model: SpeechLLM, batch: Sequence[tuple[str, torch.Tensor]], device: str
                     ) -> Iterator[tuple[str, list[np.ndarray]]]:
    lengths = torch.tensor([len(samples) for _, samples in batch], device=device)
    speech = torch.nn.utils.rnn.pad_sequence([samples for _, samples in batch], batch_first=True).to(device)
    heard = model.hear(speech, lengths)
    pairs = [(heard.semantic, heard.lengths), (heard.speaker, heard.speaker_lengths)]
    largest = max(float(frames.abs().max()) for frames, _ in pairs if frames is not None)
    if not largest < 65504:
        raise UserError(f"the frames of clip '{batch[0][0]}' or those beside it reach {largest:.3g}, which half "
                        "precision does not hold; train with feature_cache: false")
    for i, (clip, _) in enumerate(batch):
        yield clip, [frames[i, : int(sizes[i])].half().cpu().numpy() for frames, sizes in pairs if frames is not None]
