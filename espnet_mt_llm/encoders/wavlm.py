"""WavLM (Chen et al., 2022), from a model directory of transformers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from torch.nn import functional as F

from espnet_mt_llm.common import UserError, nearest
from espnet_mt_llm.encoders.checkpoint import (check_source, load_state, part, read_json, read_transformers,
                                               transformers_config)
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.nets.masks import length_mask

WANTED = ("download microsoft/wavlm-large, or wavlm-base-plus, of huggingface.co to downloads/wavlm-large and give "
          "that directory, with config.json, preprocessor_config.json and pytorch_model.bin, as checkpoint")
# What of config.json the encoder needs; it is not trained with masked features or dropped layers.
KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout",
        "activation_dropout", "attention_dropout", "feat_proj_dropout", "layer_norm_eps", "feat_extract_norm",
        "feat_extract_activation", "conv_dim", "conv_stride", "conv_kernel", "conv_bias", "num_conv_pos_embeddings",
        "num_conv_pos_embedding_groups", "num_buckets", "max_bucket_distance", "do_stable_layer_norm")
# Of preprocessor_config.json: each clip has zero mean and unit variance.
NORMALIZE = "do_normalize"
RATE = 16000


class WavLM(SpeechEncoder):
    """Convolutions on samples and a Transformer with gated relative positions.

    A clip gives the same output alone and padded in a batch; alone, it is that of transformers. The last layer of
    models with pre-normalisation (WavLM Large) is normalised.

    Low-rank adapters go on the feed-forward layers only: its attention reads the weights of the projections directly,
    past an adapter.

    Args:
        rate: sampling rate in Hz; must be 16000.
        checkpoint: model directory of transformers: config.json, preprocessor_config.json, model.safetensors or
            pytorch_model.bin.
        config: the entries of its config.json that describe the encoder, and ``do_normalize``, instead; the weights
            are random until they are loaded. A trained model's config.yaml holds it, see :meth:`saved_conf`.
        layers, freeze_layers: see :meth:`SpeechEncoder.use_layers`.
        allow_missing: weights that are missing from the checkpoint, or that are too many in it, are a warning.

    Raises:
        UserError: no such model, a model of another kind, or weights that do not fit it.
    """

    lora_targets = ("intermediate_dense", "output_dense")

    def __init__(self, rate: int = 16000, checkpoint: str = "", config: Optional[Mapping[str, Any]] = None,
                 layers: Optional[Sequence[int]] = None, freeze_layers: int = 0, allow_missing: bool = False) -> None:
        super().__init__()
        check_source("wavlm", checkpoint, config, WANTED)
        if rate != RATE:
            raise UserError(f"encoder_conf: wavlm takes {RATE} Hz, the data have {rate}; change --rate")
        if checkpoint:
            root = Path(checkpoint)
            # Fine-tuned models say nothing else about it than the model they began from.
            normalize = read_json(root / "preprocessor_config.json", WANTED).get(NORMALIZE, True)
            config = {**transformers_config(root, "wavlm", KEYS, WANTED), NORMALIZE: bool(normalize)}
            self._build(config, str(root / "config.json"))
            state, path = read_transformers(root, WANTED)
            load_state(self.model, renamed(part(state, "", ("wavlm.",))), path, allow_missing, "config.json")
        else:
            self._build(config, "encoder_conf: config")
        model = self.model
        inputs = [model.feature_extractor, model.feature_projection, model.encoder.pos_conv_embed]
        if not self.stable:
            inputs.append(model.encoder.layer_norm)
        self.use_layers(layers, freeze_layers, inputs, list(model.encoder.layers))

    def _build(self, config: Mapping[str, Any], where: str) -> None:
        from transformers import WavLMConfig, WavLMModel

        for key in config:
            if key not in (*KEYS, NORMALIZE):
                raise UserError(f"{where}: unknown key '{key}'; {nearest(str(key), (*KEYS, NORMALIZE))}")
        try:
            settings = WavLMConfig(**{key: value for key, value in config.items() if key != NORMALIZE},
                                   layerdrop=0.0, mask_time_prob=0.0, mask_feature_prob=0.0)
            self.model = WavLMModel(settings)
        except Exception as e:
            # Its configuration classes raise what they like.
            raise UserError(f"{where}: transformers refuses it ({e})") from None
        found = {key: getattr(settings, key) for key in KEYS}
        self.config = {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
        self.config[NORMALIZE] = self.normalize = bool(config.get(NORMALIZE, True))
        self.stable = settings.do_stable_layer_norm
        self.output_size, self.frame_shift = settings.hidden_size, math.prod(settings.conv_stride) / RATE
        self.shortest = 1
        for kernel, stride in zip(reversed(settings.conv_kernel), reversed(settings.conv_stride)):
            self.shortest = (self.shortest - 1) * stride + kernel

    def _prepare(self, clip: torch.Tensor) -> torch.Tensor:
        """Return samples ``(N,)`` of one clip, normalised where the model was, at least as many as a frame needs."""
        clip = clip.float()
        if self.normalize:
            clip = (clip - clip.mean()) / (clip.var(correction=0) + 1e-7).sqrt()
        return F.pad(clip, (0, max(0, self.shortest - len(clip))))

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SpeechEncoder.forward`; a clip too short for a frame is filled up."""
        model = self.model
        # Clip by clip: the convolutions of WavLM Base normalise over time.
        clips = [self._prepare(clip[:size]) for clip, size in zip(speech, lengths.tolist())]
        features = [model.feature_extractor(clip[None]).squeeze(0).T for clip in clips]
        counts = torch.tensor([len(frames) for frames in features], device=lengths.device)
        padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        hidden = model.feature_projection(padded)[0]
        outputs: list[torch.Tensor] = []
        hooks = [block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
                 for block in model.encoder.layers]
        try:
            last = model.encoder(hidden, attention_mask=length_mask(counts, hidden.size(1)))[0]
        finally:
            for hook in hooks:
                hook.remove()
        outputs[-1] = last
        return torch.stack([outputs[i] for i in self.layers]), counts


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a WavLM model under their present names, without those of other parts.

    torch has renamed the two factors of a normalised weight.
    """
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    found = {}
    for key, value in state.items():
        head, _, last = key.rpartition(".")
        if key.startswith(("feature_extractor.", "feature_projection.", "encoder.")):
            found[f"{head}.{names.get(last, last)}"] = value
    return found
