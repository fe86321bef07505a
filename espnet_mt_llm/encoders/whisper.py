"""The encoder of Whisper (Radford et al., 2023), from a model directory of transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from torch.nn import functional as F

from espnet_mt_llm.common import UserError, nearest
from espnet_mt_llm.encoders.checkpoint import check_source, load_state, part, read_transformers, transformers_config
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.nets.masks import length_mask

WANTED = ("download openai/whisper-large-v3, or another size, of huggingface.co to downloads/whisper-large-v3 and give "
          "that directory, with config.json and model.safetensors, as checkpoint")
# What of config.json the encoder needs; it is not trained with dropped layers.
KEYS = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins",
        "max_source_positions", "activation_function", "scale_embedding", "dropout", "attention_dropout",
        "activation_dropout")
RATE, FFT, HOP, STRIDE = 16000, 400, 160, 2


class Whisper(SpeechEncoder):
    """Log-mel features and the Transformer encoder of a Whisper model; its decoder stays out.

    Whisper itself pads all inputs to 30 s. Here a shorter clip stays as it is, with the positions of its own frames,
    and a longer one is cut into windows of 30 s whose frames are put together again. A clip of 30 s gives the same as
    transformers, and every clip the same alone and padded in a batch.

    Args:
        rate: sampling rate in Hz; must be 16000.
        checkpoint: model directory of transformers: config.json, model.safetensors or pytorch_model.bin.
        config: the entries of its config.json that describe the encoder instead; the weights are random until they
            are loaded. A trained model's config.yaml holds it, see :meth:`saved_conf`.
        layers, freeze_layers: see :meth:`SpeechEncoder.use_layers`.
        allow_missing: weights that are missing from the checkpoint, or that are too many in it, are a warning.

    Raises:
        UserError: no such model, a model of another kind, or weights that do not fit it.
    """

    lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

    def __init__(self, rate: int = 16000, checkpoint: str = "", config: Optional[Mapping[str, Any]] = None,
                 layers: Optional[Sequence[int]] = None, freeze_layers: int = 0, allow_missing: bool = False) -> None:
        super().__init__()
        check_source("whisper", checkpoint, config, WANTED)
        if rate != RATE:
            raise UserError(f"encoder_conf: whisper takes {RATE} Hz, the data have {rate}; change --rate")
        if checkpoint:
            config = transformers_config(Path(checkpoint), "whisper", KEYS, WANTED)
            self._build(config, str(Path(checkpoint) / "config.json"))
            state, path = read_transformers(Path(checkpoint), WANTED)
            load_state(self.encoder, part(state, "encoder.", ("model.",)), path, allow_missing, "config.json")
        else:
            self._build(config, "encoder_conf: config")
        model = self.encoder
        self.use_layers(layers, freeze_layers, [model.conv1, model.conv2, model.embed_positions], list(model.layers))

    def _build(self, config: Mapping[str, Any], where: str) -> None:
        from transformers import WhisperConfig
        from transformers.audio_utils import mel_filter_bank
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        for key in config:
            if key not in KEYS:
                raise UserError(f"{where}: unknown key '{key}'; {nearest(str(key), KEYS)}")
        try:
            settings = WhisperConfig(**config, encoder_layerdrop=0.0, attn_implementation="sdpa")
            self.encoder = WhisperEncoder(settings)
        except Exception as e:
            # Its configuration classes raise what they like.
            raise UserError(f"{where}: transformers refuses it ({e})") from None
        self.config = {key: getattr(settings, key) for key in KEYS}
        self.output_size, self.frame_shift = settings.d_model, HOP * STRIDE / RATE
        self.window_size = settings.max_source_positions * STRIDE * HOP
        filters = mel_filter_bank(1 + FFT // 2, settings.num_mel_bins, 0.0, RATE / 2, RATE, norm="slaney",
                                  mel_scale="slaney")
        self.register_buffer("mel", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)

    def _features(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-mel frames ``(B, num_mels, 2 T)`` of windows ``(B, N)``, 0 behind their ends, and T of each.

        The base-10 logarithm is cut 8 below the loudest value of the window, then shifted and scaled.
        """
        counts = ((lengths + STRIDE * HOP - 1) // (STRIDE * HOP)).clamp(min=1)
        size = int(counts.max()) * STRIDE
        speech = speech.float() * length_mask(lengths, speech.size(1))
        # Zeros follow a clip, as in transformers; only a full window is mirrored at its end.
        speech = F.pad(speech, (0, min(self.window_size, size * HOP + FFT) - speech.size(1)))
        spectrum = torch.stft(speech, FFT, HOP, window=self.window, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        logmel = (self.mel.T @ power).clamp(min=1e-10).log10()
        logmel = torch.maximum(logmel, logmel.amax((1, 2), keepdim=True) - 8.0)[..., :size]
        return (logmel + 4.0) / 4.0 * length_mask(STRIDE * counts, size)[:, None, :], counts

    def _encode(self, feats: torch.Tensor, counts: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs ``(B, T, D)`` of the blocks up to the last one that is wanted."""
        model = self.encoder
        hidden = F.gelu(model.conv2(F.gelu(model.conv1(feats)))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[: hidden.size(1)]
        hidden = F.dropout(hidden, model.dropout, model.training)
        mask = length_mask(counts, hidden.size(1))[:, None, None, :]
        outputs = []
        for block in model.layers[: max(self.layers) + 1]:
            hidden = block(hidden, mask)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            outputs.append(hidden)
        if len(outputs) == len(model.layers):
            outputs[-1] = model.layer_norm(outputs[-1])
        return outputs

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SpeechEncoder.forward`; the last layer is normalised, a clip too short for a frame is filled up.
        """
        batch, pieces = len(speech), -(-speech.size(1) // self.window_size)
        if pieces > 1:
            speech = F.pad(speech, (0, pieces * self.window_size - speech.size(1))).view(batch * pieces, -1)
        starts = torch.arange(pieces, device=lengths.device) * self.window_size
        sizes = (lengths[:, None] - starts).clamp(0, self.window_size)
        # Windows that lie behind a clip's end are not run.
        used = ((sizes > 0) | (starts == 0)).flatten()
        with torch.no_grad(), torch.autocast(speech.device.type, enabled=False):
            feats, counts = self._features(speech[used], sizes.flatten()[used])
        outputs = self._encode(feats, counts)
        hidden = torch.stack([outputs[i] for i in self.layers])
        frames = counts.new_zeros(batch * pieces).masked_scatter(used, counts).view(batch, pieces).sum(1)
        if pieces > 1:
            # All windows of a clip but the last are full, so that its frames follow one another.
            whole = hidden.new_zeros(len(self.layers), batch * pieces, *hidden.shape[2:])
            whole[:, used] = hidden
            hidden = whole.view(len(self.layers), batch, -1, hidden.size(3))[:, :, : int(frames.max())]
        return hidden, frames
