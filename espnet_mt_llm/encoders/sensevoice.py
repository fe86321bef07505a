"""The speech encoder of SenseVoice-small (An et al., 2024), from a model directory of funasr."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import torch

from espnet_mt_llm.common import UserError, at, load_yaml, nearest
from espnet_mt_llm.encoders.checkpoint import check_source, load_state, read_json, read_state
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.nets.fbank import KaldiFbank
from espnet_mt_llm.nets.sanm import SanmStack

WANTED = ("download iic/SenseVoiceSmall of modelscope.cn (FunAudioLLM/SenseVoiceSmall of huggingface.co) to "
          "downloads/SenseVoiceSmall and give that directory, with config.yaml, model.pt and am.mvn, as checkpoint")
SUPPORTED = {"model": "SenseVoiceSmall", "encoder": "SenseVoiceEncoderSmall", "frontend": "WavFrontend"}
FRONTEND = {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10, "lfr_m": 7,
            "lfr_n": 6}
# What encoder_conf says besides sizes: the only values there are; none of the others changes anything.
FIXED = {"input_layer": "pe", "pos_enc_class": "SinusoidalPositionEncoder", "normalize_before": True,
         "concat_after": False, "selfattention_layer_type": "sanm"}
UNUSED = ("positional_dropout_rate", "stochastic_depth_rate", "positionwise_layer_type",
          "positionwise_conv_kernel_size", "padding_idx")
# Rows of its prompt table: any language, event, emotion, text without inverse normalisation; 16 rows in all.
PROMPTS, NUM_PROMPTS = (0, 1, 2, 15), 16


class SenseVoice(SpeechEncoder):
    """Kaldi features, stacked frames, normalisation, four prompts and the SAN-M blocks; its CTC layer stays out.

    The prompts are those of funasr's inference by default (language ``auto``, no inverse text normalisation); their
    output frames are dropped. A clip gives the same output alone and padded in a batch. Layers 1 to 50 are the main
    blocks, 51 to 70 those behind them; 50 and 70 are normalised.

    Args:
        rate: sampling rate in Hz; must be the checkpoint's.
        checkpoint: model directory of funasr: config.yaml, model.pt, am.mvn.
        config: ``encoder_conf`` and ``frontend_conf`` of its config.yaml instead; the weights are random until they
            are loaded. A trained model's config.yaml holds it, see :meth:`saved_conf`.
        layers, freeze_layers: see :meth:`SpeechEncoder.use_layers`; the prompts belong to the input layer.
        allow_missing: weights that are missing from the checkpoint, or that are too many in it, are a warning.

    Raises:
        UserError: no such model, a model of another kind, or weights that do not fit it.
    """

    lora_targets = ("linear_q_k_v", "linear_out", "w_1", "w_2")

    def __init__(self, rate: int = 16000, checkpoint: str = "", config: Optional[Mapping[str, Any]] = None,
                 layers: Optional[Sequence[int]] = None, freeze_layers: int = 0, allow_missing: bool = False) -> None:
        super().__init__()
        check_source("sensevoice", checkpoint, config, WANTED)
        if checkpoint:
            root = Path(checkpoint)
            config = read_config(root)
            self._build(config, rate, str(root / "config.yaml"))
            given = {key: value for key, value in read_state(root / "model.pt", WANTED).items()
                     if key.startswith(("encoder.", "embed."))}
            load_state(self, {**given, **read_mvn(find_mvn(root))}, root / "model.pt", allow_missing)
        else:
            self._build(config, rate, "encoder_conf: config")
        self.use_layers(layers, freeze_layers, [self.embed], self.encoder.blocks)

    def _build(self, config: Mapping[str, Any], rate: int, where: str) -> None:
        for key in config:
            if key not in ("encoder_conf", "frontend_conf"):
                raise UserError(f"{where}: unknown key '{key}'; {nearest(key, ('encoder_conf', 'frontend_conf'))}")
        frontend = checked(config.get("frontend_conf"), {**FRONTEND, "cmvn_file": None, "dither": 0}, (),
                           f"{where}: frontend_conf")
        sizes = [name for name in inspect.signature(SanmStack).parameters if name != "input_size"]
        conf = checked(config.get("encoder_conf"), {**dict.fromkeys(sizes), **FIXED}, UNUSED,
                       f"{where}: encoder_conf")
        for key, value in FIXED.items():
            if conf.get(key, value) != value:
                raise UserError(f"{where}: encoder_conf: {key} is '{conf[key]}'; wanted {value}, as SenseVoice-small "
                                "has")
        frontend = {key: frontend.get(key, value) for key, value in FRONTEND.items()}
        if frontend["fs"] != rate:
            raise UserError(f"{where}: the model takes {frontend['fs']} Hz, the data have {rate}; change --rate")
        conf = {key: conf[key] for key in sizes if key in conf}
        self.config = {"encoder_conf": conf, "frontend_conf": frontend}
        shift = frontend["frame_shift"] / 1000
        self.stack, self.stride = frontend["lfr_m"], frontend["lfr_n"]
        self.fbank = KaldiFbank(rate, frontend["n_mels"], frontend["window"], frontend["frame_length"] / 1000, shift)
        size = frontend["n_mels"] * self.stack
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.embed = torch.nn.Embedding(NUM_PROMPTS, size)
        try:
            self.encoder = SanmStack(size, **conf)
        except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as e:
            raise UserError(f"{where}: encoder_conf: sizes that do not fit ({e})") from None
        self.output_size, self.frame_shift = self.encoder.output_size, shift * self.stride

    def _features(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return normalised stacked frames ``(B, T, stack * num_mels)`` and their lengths ``(B,)``.

        Frame t stands for the filter-bank frames around ``stride * t``; the first and the last are repeated beyond
        the ends of a clip.
        """
        feats, lengths = self.fbank(speech, lengths)
        counts = (lengths + self.stride - 1) // self.stride
        centres = torch.arange(int(counts.max()), device=feats.device) * self.stride
        offsets = torch.arange(self.stack, device=feats.device) - (self.stack - 1) // 2
        index = (centres[:, None] + offsets).flatten().clamp(min=0)
        index = torch.minimum(index[None, :], (lengths - 1)[:, None])
        feats = feats.gather(1, index[..., None].expand(-1, -1, feats.size(2)))
        return (feats.reshape(len(counts), len(centres), -1) + self.shift) * self.scale, counts

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SpeechEncoder.forward`; a clip too short for a frame is filled up."""
        with torch.no_grad(), torch.autocast(speech.device.type, enabled=False):
            feats, counts = self._features(speech, lengths)
        prompts = self.embed(torch.tensor(PROMPTS, device=feats.device)).expand(len(feats), -1, -1)
        outputs = self.encoder(torch.cat([prompts, feats], dim=1), counts + len(PROMPTS), self.layers)
        return torch.stack([outputs[i][:, len(PROMPTS):] for i in self.layers]), counts


def checked(conf: Any, valid: Mapping[str, Any], unused: Sequence[str], where: str) -> dict[str, Any]:
    """Return ``conf`` without the keys ``unused``.

    Raises:
        UserError: it is not a mapping, or it holds a key that is neither ``valid`` nor ``unused``.
    """
    if conf is None:
        return {}
    if not isinstance(conf, Mapping):
        raise UserError(f"{where}: expected 'key: value' lines, found {conf!r}")
    for key in conf:
        if key not in valid and key not in unused:
            raise UserError(f"{where}: unknown key '{key}'; {nearest(str(key), valid)}")
    return {key: value for key, value in conf.items() if key not in unused}


def read_config(root: Path) -> dict[str, Any]:
    """Return what describes the encoder in the config.yaml of a model directory.

    Raises:
        UserError: there is none, or it is of another model.
    """
    path = root / "config.yaml"
    for name in ("config.yaml", "model.pt"):
        if not (root / name).is_file():
            raise at(root / name, None, "no such file", WANTED)
    values = load_yaml(path)
    if not isinstance(values, Mapping):
        raise at(path, None, "not a mapping", WANTED)
    for key, wanted in SUPPORTED.items():
        if values.get(key) != wanted:
            raise at(path, None, f"{key} is '{values.get(key)}', wanted {wanted}", WANTED)
    if values.get("normalize") is not None:
        raise at(path, None, f"normalize is '{values['normalize']}', wanted none, as SenseVoice-small has", WANTED)
    return {"encoder_conf": values.get("encoder_conf"), "frontend_conf": values.get("frontend_conf")}


def find_mvn(root: Path) -> Path:
    """Return the file of the normalisation, as configuration.json, config.yaml or custom names it."""
    named = [((load_yaml(root / "config.yaml") or {}).get("frontend_conf") or {}).get("cmvn_file")]
    if (root / "configuration.json").is_file():
        metas = read_json(root / "configuration.json", WANTED).get("file_path_metas") or {}
        named.insert(0, (metas.get("frontend_conf") or {}).get("cmvn_file"))
    for name in filter(None, named):
        for path in (root / name, root / Path(name).name):
            if path.is_file():
                return path
    return root / "am.mvn"


def read_mvn(path: Path) -> dict[str, torch.Tensor]:
    """Return what is added to features and what they are then multiplied with, from a Kaldi network in text form.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise at(path, None, "no such file", WANTED)
    found: dict[str, torch.Tensor] = {}
    # ``<AddShift> 560 560`` and, on the next line, ``<LearnRateCoef> 0 [ -8.31 … ]``; ``<Rescale>`` alike.
    tokens = path.read_text(encoding="utf-8", errors="replace").split()
    for name, key in (("<AddShift>", "shift"), ("<Rescale>", "scale")):
        try:
            start = tokens.index("[", tokens.index(name))
            found[key] = torch.tensor([float(x) for x in tokens[start + 1 : tokens.index("]", start)]])
        except ValueError:
            raise at(path, None, f"no numbers of {name}", WANTED) from None
    return found
