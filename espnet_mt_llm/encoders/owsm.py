"""The speech encoder of OWSM v3.1 (Peng et al., 2024), or of another ESPnet S2T model with an E-Branchformer."""

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

import torch

from espnet_mt_llm.common import Pathlike, UserError, at, load_yaml
from espnet_mt_llm.encoders.checkpoint import check_source, load_state, read_state
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.nets.masks import length_mask

# What of an S2T model belongs to its encoder: prefixes of its weights, keys of its configuration.
PARTS = ("frontend.", "normalize.", "encoder.")
KEYS = ("frontend", "frontend_conf", "specaug", "specaug_conf", "normalize", "normalize_conf", "preencoder", "encoder",
        "encoder_conf", "postencoder")
SUPPORTED = {"frontend": ("default",), "specaug": (None, "specaug"), "normalize": (None, "global_mvn", "utterance_mvn"),
             "preencoder": (None,), "encoder": ("e_branchformer",), "postencoder": (None,)}
WANTED = "give an ESPnet S2T model, e.g. OWSM v3.1: a directory or zip with meta.yaml, or config.yaml and one .pth"


class Owsm(SpeechEncoder):
    """Log-mel front end, normalisation and E-Branchformer of a pretrained S2T model; its decoder and CTC stay out.

    A clip gives the same output alone and padded in a batch: features are taken from each clip alone, and padding is
    zero in front of every convolution. Alone, the output equals espnet2's own. OWSM itself pads all inputs to 30 s;
    clips of any length are taken here.

    Args:
        rate: sampling rate in Hz; must be the checkpoint's.
        checkpoint: directory or zip of the ESPnet model zoo (meta.yaml, exp/…/config.yaml, the .pth), a directory
            with config.yaml and one .pth, or the .pth itself with config.yaml beside it. A zip is unpacked to the
            temporary directory on every start: unpack it once for a quicker one.
        config: the part of the S2T configuration that describes the encoder, instead of ``checkpoint``; the weights
            are random until they are loaded. A trained model's config.yaml holds it, see :meth:`saved_conf`.
        layers, freeze_layers: see :meth:`SpeechEncoder.use_layers`.
        specaug: mask features while training as the checkpoint's own training did.
        allow_missing: weights that are missing from the checkpoint, or that are too many in it, are a warning.

    Raises:
        UserError: no such model, a model of another kind, or weights that do not fit it.
    """

    lora_targets = ("linear_q", "linear_k", "linear_v", "linear_out", "w_1", "w_2")

    def __init__(self, rate: int = 16000, checkpoint: str = "", config: Optional[Mapping[str, Any]] = None,
                 layers: Optional[Sequence[int]] = None, freeze_layers: int = 0, specaug: bool = False,
                 allow_missing: bool = False) -> None:
        super().__init__()
        check_source("owsm", checkpoint, config, WANTED)
        if config:
            self._build(config, rate, specaug, "encoder_conf: config")
        else:
            with opened(checkpoint) as files:
                config = {key: load_yaml(files.config).get(key) for key in KEYS}
                self._build(config, rate, specaug, files.shown(files.config))
                state = read_state(files.weights, WANTED, files.shown(files.weights))
                if "normalize.mean" not in state and config.get("normalize") == "global_mvn":
                    state |= read_statistics(files, (config.get("normalize_conf") or {}).get("stats_file"))
                given = {key: value for key, value in state.items() if key.startswith(PARTS)}
                load_state(self, given, files.shown(files.weights), allow_missing)
        self.config = {**config, "normalize_conf": {k: v for k, v in (config.get("normalize_conf") or {}).items()
                                                    if k != "stats_file"}}
        self.use_layers(layers, freeze_layers, [self.encoder.embed], list(self.encoder.encoders))

    def _build(self, config: Mapping[str, Any], rate: int, specaug: bool, where: str) -> None:
        from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
        from espnet2.asr.frontend.default import DefaultFrontend
        from espnet2.asr.specaug.specaug import SpecAug

        for key, valid in SUPPORTED.items():
            if config.get(key) not in valid:
                raise UserError(f"{where}: {key} is '{config.get(key)}'; wanted {' or '.join(map(str, valid))}, as "
                                "OWSM v3.1 has")
        # Flash attention takes no padding mask in single precision; the results are the same.
        conf = {**(config.get("encoder_conf") or {}), "use_flash_attn": False}
        if conf.get("interctc_use_conditioning"):
            raise UserError(f"{where}: encoders conditioned on their own CTC (OWSM-CTC) are not supported; {WANTED}")
        try:
            self.frontend = DefaultFrontend(**(config.get("frontend_conf") or {}))
            self.normalize = normaliser(config, self.frontend.output_size())
            self.encoder = EBranchformerEncoder(self.frontend.output_size(), **conf)
            self.specaug = SpecAug(**(config.get("specaug_conf") or {})) if specaug and config.get("specaug") else None
        except Exception as e:
            # Its own checks and those of typeguard raise what they like.
            raise UserError(f"{where}: espnet2 refuses it ({e}); was it written by another version?") from None
        self.strides = [c for c in getattr(self.encoder.embed, "conv", ()) if isinstance(c, torch.nn.Conv2d)]
        if not self.strides:
            raise UserError(f"{where}: input_layer is '{conf.get('input_layer')}'; wanted conv2d, as OWSM v3.1 has")
        found = int(self.frontend.logmel.mel_options["sr"])
        if found != rate:
            raise UserError(f"{where}: the model takes {found} Hz, the data have {rate}; change --rate")
        self.output_size = self.encoder.output_size()
        self.frame_shift = self.frontend.hop_length / rate
        for convolution in self.strides:
            self.frame_shift *= convolution.stride[0]
        self._mask: Optional[torch.Tensor] = None
        for block in self.encoder.encoders:
            for convolution in (block.cgmlp.csgu.conv, block.depthwise_conv_fusion):
                convolution.register_forward_pre_hook(self._zero_padding)

    def _zero_padding(self, _module: torch.nn.Module, inputs: tuple) -> tuple:
        return (inputs[0] * self._mask,) + inputs[1:]

    def _frames(self, count: int) -> int:
        """Return how many frames the convolutions make of ``count`` log-mel frames."""
        for convolution in self.strides:
            count = (count - convolution.kernel_size[0]) // convolution.stride[0] + 1
        return count

    def _shortest(self) -> int:
        """Return the fewest samples that give one frame; the front end mirrors half a window at both ends."""
        count, stft = 1, self.frontend.stft
        for convolution in reversed(self.strides):
            count = (count - 1) * convolution.stride[0] + convolution.kernel_size[0]
        samples = (count - 1) * stft.hop_length
        return max(samples, stft.n_fft // 2 + 1) if stft.center else samples + stft.n_fft

    def _features(self, speech: torch.Tensor) -> torch.Tensor:
        """Return normalised log-mel frames ``(T, 80)`` of one clip ``(N,)``, as in espnet2's S2T model."""
        length = torch.tensor([speech.numel()], device=speech.device)
        feats, length = self.frontend(speech.unsqueeze(0), length)
        for step in (self.specaug if self.training else None, self.normalize):
            if step is not None:
                feats, length = step(feats, length)
        return feats.squeeze(0)

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SpeechEncoder.forward`; the last layer is normalised, a clip too short for a frame is filled up.
        """
        sizes = lengths.tolist()
        shortest = self._shortest()
        with torch.autocast(speech.device.type, enabled=False), torch.no_grad():
            clips = [torch.nn.functional.pad(clip[:size].float(), (0, max(0, shortest - size)))
                     for clip, size in zip(speech, sizes)]
            features = [self._features(clip) for clip in clips]
            feats = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        counts = torch.tensor([self._frames(len(f)) for f in features], device=lengths.device)
        # espnet2's subsampling counts frames that reach into padding; the lengths here are those of a clip alone.
        hidden, _ = self.encoder.embed(feats, None)
        mask = length_mask(counts, int(counts.max())).unsqueeze(1)
        outputs = []
        self._mask = mask.to(feats.dtype)
        try:
            for block in self.encoder.encoders[: max(self.layers) + 1]:
                hidden, _ = block(hidden, mask)
                outputs.append(hidden[0] if isinstance(hidden, tuple) else hidden)
        finally:
            self._mask = None
        if len(outputs) == len(self.encoder.encoders):
            outputs[-1] = self.encoder.after_norm(outputs[-1])
        return torch.stack([outputs[i] for i in self.layers]), counts


def normaliser(config: Mapping[str, Any], size: int) -> Optional[torch.nn.Module]:
    """Build espnet2's normalisation; the statistics of ``global_mvn`` come with the weights."""
    from espnet2.layers.global_mvn import GlobalMVN
    from espnet2.layers.utterance_mvn import UtteranceMVN

    conf = {key: value for key, value in (config.get("normalize_conf") or {}).items() if key != "stats_file"}
    if config.get("normalize") is None:
        return None
    if config.get("normalize") == "utterance_mvn":
        return UtteranceMVN(**conf)
    import numpy as np

    # It reads a file before anything else: one of zero mean and unit variance.
    with tempfile.NamedTemporaryFile(suffix=".npz") as f:
        np.savez(f, count=1, sum=np.zeros(size), sum_square=np.ones(size))
        f.flush()
        return GlobalMVN(f.name, **conf).float()


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint.

    Attributes:
        root: the directory they lie in.
        name: how the user named it; differs from ``root`` for a zip.
        config, weights: config.yaml and the .pth.
    """

    root: Path
    name: Path
    config: Path
    weights: Path

    def shown(self, path: Path) -> str:
        """Return ``path`` as the user knows it."""
        return str(self.name / path.relative_to(self.root))


@contextmanager
def opened(checkpoint: Pathlike) -> Iterator[Files]:
    """Yield the files of ``checkpoint``: a directory, a .pth, or a zip, which is unpacked for that time.

    Raises:
        UserError: there is no such file, it is of another kind, or it holds no model or several.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise at(path, None, "no such checkpoint", WANTED)
    if path.is_dir():
        yield find_model(path, path)
    elif path.suffix == ".pth":
        yield existing(Files(path.parent, path.parent, path.parent / "config.yaml", path))
    elif zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory(prefix="owsm.") as directory:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(directory)
            yield find_model(Path(directory), path)
    else:
        raise at(path, None, "neither a directory nor a zip nor a .pth", WANTED)


def existing(files: Files) -> Files:
    """Return ``files`` if they exist, else raise a :class:`UserError`."""
    for path in (files.config, files.weights):
        if not path.is_file():
            raise at(files.shown(path), None, "no such file", WANTED)
    return files


def find_model(root: Path, name: Path) -> Files:
    """Find config.yaml and the weights in ``root``, which the user knows as ``name``.

    Raises:
        UserError: they are not there, or there are several.
    """
    if (root / "meta.yaml").is_file():
        meta = load_yaml(root / "meta.yaml") or {}
        for task in ("s2t", "asr"):
            config = (meta.get("yaml_files") or {}).get(f"{task}_train_config")
            weights = (meta.get("files") or {}).get(f"{task}_model_file")
            if config and weights:
                return existing(Files(root, name, root / config, root / weights))
        raise at(name / "meta.yaml", None, "names no s2t_train_config and s2t_model_file", WANTED)
    configs = [root / "config.yaml"] if (root / "config.yaml").is_file() else sorted(root.rglob("config.yaml"))
    weights = sorted(configs[0].parent.glob("*.pth")) if len(configs) == 1 else []
    if len(weights) == 1:
        return existing(Files(root, name, configs[0], weights[0]))
    several = weights or configs[1:] and configs
    listed = ", ".join(str(p.relative_to(root)) for p in (several or sorted(root.iterdir()))[:8]) or "nothing"
    if several:
        raise at(name, None, f"several models: {listed}", "name the .pth itself")
    raise at(name, None, f"no model; found {listed}", WANTED)


def read_statistics(files: Files, name: Optional[str]) -> dict[str, torch.Tensor]:
    """Return mean and standard deviation of ``global_mvn`` from its file ``name``; empty if it is not there."""
    from espnet2.layers.global_mvn import GlobalMVN

    beside = files.config.parent
    for path in (files.root / name, beside / name, beside / Path(name).name) if name else ():
        if path.is_file():
            statistics = GlobalMVN(path)
            return {"normalize.mean": statistics.mean, "normalize.std": statistics.std}
    return {}
