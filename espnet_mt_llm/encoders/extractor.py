"""What the speaker extractors of 3D-Speaker share: features, pooling, chunks, checkpoints."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

import torch

from espnet_mt_llm.common import UserError, at, from_mapping, listed, load_yaml
from espnet_mt_llm.encoders.checkpoint import read_state
from espnet_mt_llm.encoders.interface import SpeakerEncoder
from espnet_mt_llm.nets.chunk_pooling import chunk_statistics, clip_statistics, over_frames
from espnet_mt_llm.nets.fbank import KaldiFbank, subtract_mean
from espnet_mt_llm.nets.masks import length_mask

# The rate of the released extractors.
RATE = 16000
# What a training of this toolkit leaves. Not the best by the error rate: on few voices that is 0 long before the end.
TRAINED = "latest.pth"


class Extractor(SpeakerEncoder):
    """Kaldi features without their mean, a network, statistics pooling and a dense layer.

    The weights have the names and shapes of the released checkpoints. A clip has the same embedding alone and padded in
    a batch: padding is zero in front of every convolution over time, and counts in no mean.

    Args:
        rate: sampling rate in Hz; must be the checkpoint's.
        checkpoint: the released file, a directory with it, or what the task ``speaker`` has trained: its directory, or
            a .pth with config.yaml beside it, which says the sizes. Empty: random weights, until they are loaded.
        frozen: the weights stay as they are, and the statistics of the normalisations with them.
        sizes: fields of :attr:`sizes_class`; the released ones by default.

    Raises:
        UserError: no such file, weights or sizes that do not fit, an unknown size.

    Attributes:
        name: of the extractor.
        released: the file name of its released weights.
        model_id: where they are, on modelscope.cn.
        sizes_class: dataclass of its sizes.
        rate: sampling rate in Hz.
        eps: added to the variance over a clip.
    """

    name: str
    released: str
    model_id: str
    sizes_class: type
    eps: float

    def __init__(self, rate: int = RATE, checkpoint: str = "", frozen: bool = True, **sizes: Any) -> None:
        super().__init__()
        if frozen and not checkpoint and not sizes:
            raise UserError(f"{self.name}: no checkpoint; {self.wanted()}")
        path = self._find(checkpoint) if checkpoint else None
        saved = self._saved(path, rate) if path else {}
        self.sizes = from_mapping(self.sizes_class, {**saved, **sizes}, self.name)
        self.rate = rate
        self.fbank = KaldiFbank(rate, self.sizes.num_mels)
        self.embedding_size = self.sizes.embedding_size
        self._build()
        if path:
            self._load(path)
        if frozen:
            self.freeze([self])

    @classmethod
    def wanted(cls) -> str:
        """Say where the released weights are, and where they go."""
        return (f"download {cls.released} of {cls.model_id} from modelscope.cn and give its path as checkpoint, or "
                "give a step that the task speaker has trained")

    def _find(self, checkpoint: str) -> Path:
        path = Path(checkpoint)
        candidates = [path / name for name in (self.released, TRAINED)] if path.is_dir() else [path]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise at(path, None, f"no weights of {self.name}" if path.is_dir() else "no such checkpoint", self.wanted())

    def _saved(self, path: Path, rate: int) -> dict[str, Any]:
        """Return the sizes in the config.yaml beside the weights of a training; a released file has none."""
        config, found = path.parent / "config.yaml", RATE
        saved: Mapping[str, Any] = {}
        if path.name != self.released and config.is_file():
            values = load_yaml(config) or {}
            if values.get("encoder") != self.name:
                raise at(config, None, f"the encoder is '{values.get('encoder')}', not {self.name}", self.wanted())
            found, saved = int(values.get("rate", RATE)), values.get("encoder_conf") or {}
        if found != rate:
            raise at(path, None, f"the extractor takes {found} Hz, the data have {rate}", "change --rate")
        return {key: value for key, value in saved.items() if key not in ("checkpoint", "frozen")}

    def _load(self, path: Path) -> None:
        own = self.state_dict()
        given = read_weights(path, own, self.wanted())
        wrong = [key for key in own.keys() & given.keys() if own[key].shape != given[key].shape]
        for kind, keys in (("missing", own.keys() - given.keys()), ("extra", given.keys() - own.keys()),
                           ("of another shape", wrong)):
            # Files that were written before torch counted batches lack these alone.
            if keys := sorted(key for key in keys if not key.endswith("num_batches_tracked")):
                raise at(path, None, f"the weights do not fit {self.name}: {kind} {listed(keys)} ({len(keys)})",
                         "give the sizes that it was trained with; " + self.wanted())
        self.load_state_dict(given, strict=False)

    def saved_conf(self, conf: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`SpeakerEncoder.saved_conf`: the sizes stand for the checkpoint."""
        sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.sizes).items()}
        return {**{key: value for key, value in conf.items() if key != "checkpoint"}, **sizes}

    @abstractmethod
    def _build(self) -> None:
        """Make the network from ``self.sizes``."""

    @abstractmethod
    def _network(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return frames before pooling ``(B, T', D)`` and their lengths, from features ``(B, T, num_mels)``."""

    @abstractmethod
    def _dense(self, statistics: torch.Tensor) -> torch.Tensor:
        """Return embeddings ``(M, E)`` of statistics ``(M, 2 D)``."""

    def frames(self, speech: torch.Tensor, lengths: torch.Tensor, mean_window: Optional[float] = None
               ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SpeakerEncoder.frames`."""
        features, lengths = self.fbank(speech, lengths, scale=1.0)
        window = None if mean_window is None else 2 * round(mean_window * self.rate / self.fbank.hop / 2) + 1
        return self._network(subtract_mean(features, lengths, window), lengths)

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """See :meth:`SpeakerEncoder.forward`."""
        frames, lengths = self.frames(speech, lengths)
        return self._dense(clip_statistics(frames, lengths, self.eps))

    def chunks(self, speech: torch.Tensor, lengths: torch.Tensor, sizes: Sequence[float] = (0.4, 0.2, 0.1),
               raw: bool = False, mean_window: Optional[float] = None) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SpeakerEncoder.chunks`; a size is a whole number of frames, at least one."""
        frames, lengths = self.frames(speech, lengths, mean_window)
        time, found = frames.size(1), []
        for seconds in sizes:
            size = self.chunk_frames(seconds)
            pooled = chunk_statistics(frames, lengths, size)
            if not raw:
                pooled = self._dense(pooled.flatten(0, 1)).view(*pooled.shape[:2], -1)
            found.append(over_frames(pooled, lengths, size, time))
        return torch.cat(found, -1), lengths

    def chunk_frames(self, seconds: float) -> int:
        """Return how many frames a chunk has.

        Raises:
            UserError: a length that is not positive.
        """
        if not seconds > 0:
            raise UserError(f"{self.name}: chunks of {seconds} s; give positive sizes, e.g. [0.4, 0.2, 0.1]")
        return max(1, round(seconds / self.frame_shift))


def read_weights(path: Path, own: Iterable[str], wanted: str) -> dict[str, torch.Tensor]:
    """Return the state dict of an extractor: a file of its own, or inside the checkpoint of a larger model.

    Args:
        own: the names that are looked for; in a larger model they begin with that of the extractor's attribute.

    Raises:
        UserError: the file holds no weights.
    """
    state = read_state(path, wanted)
    names = set(own)
    for prefix in ("encoder.", "speaker_encoder.", "model.", "module.", "embedding_model."):
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if names & inner.keys():
            return inner
    return state


def time_mask(lengths: torch.Tensor, frames: torch.Tensor) -> Optional[torch.Tensor]:
    """Return a mask of the last axis of ``frames`` ``(B, …, T)``, 1 inside; None where nothing is padded."""
    if int(lengths.min()) >= frames.size(-1):
        return None
    mask = length_mask(lengths, frames.size(-1)).to(frames.dtype)
    return mask.view(len(lengths), *[1] * (frames.dim() - 2), -1)


def hide(frames: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
    """Put zeros where ``mask`` of :func:`time_mask` has them."""
    return frames if mask is None else frames * mask


def halved(lengths: torch.Tensor) -> torch.Tensor:
    """Return how many frames a convolution of stride 2 leaves, with half a kernel of zeros at both ends."""
    return (lengths - 1) // 2 + 1
