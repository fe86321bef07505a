"""A speech encoder that tells voices: frames of a speaker extractor stand beside its own."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch

from espnet_mt_llm.common import UserError, is_number
from espnet_mt_llm.encoders.interface import SpeechEncoder
from espnet_mt_llm.encoders.registry import speaker_encoder, speech_encoder
from espnet_mt_llm.nets.separator import LSTM
from espnet_mt_llm.nets.speaker_stream import SpeakerStream


class SpeakerAware(SpeechEncoder):
    """Layers of a speech encoder, and in front of them one of voices.

    An encoder that has learnt words alone tells voices badly, and what it learns of them it loses of words. The frames
    that an extractor has before its pooling know them already. They and their squares, of which pooling makes mean and
    deviation, are brought to the rate of the speech encoder's frames, and an LSTM in both directions pools what belongs
    to one turn. The extractor stays as it is. Ours, of no publication.

    Args:
        rate: sampling rate in Hz.
        layers, freeze_layers: of the speech encoder, see :meth:`SpeechEncoder.use_layers`.
        speech, speech_conf: the speech encoder and its other arguments.
        extractor, extractor_conf: the speaker encoder and its arguments.
        mean_window: seconds around each frame over which the mean of the extractor's features is taken; None for the
            clip.
        num_layers: of the LSTM.

    Raises:
        UserError: no such encoder, or an argument that it does not take.
    """

    def __init__(self, rate: int = 16000, layers: Optional[Sequence[int]] = None, freeze_layers: int = 0,
                 speech: str = "e_branchformer", speech_conf: Optional[Mapping[str, Any]] = None,
                 extractor: str = "campplus", extractor_conf: Optional[Mapping[str, Any]] = None,
                 mean_window: Optional[float] = 1.0, num_layers: int = 2) -> None:
        super().__init__()
        if speech == "speaker_aware":
            raise UserError("encoder_conf: speech: speaker_aware stands around another encoder; name that one")
        if mean_window is not None and not (is_number(mean_window) and mean_window > 0):
            raise UserError(f"encoder_conf: mean_window: {mean_window!r}; seconds above 0 are expected, or null")
        self.speech: SpeechEncoder = speech_encoder(speech)(
            rate=rate, layers=layers, freeze_layers=freeze_layers, **(speech_conf or {}))
        self.extractor = speaker_encoder(extractor)(rate=rate, **(extractor_conf or {}))
        self.freeze([self.extractor])
        size = self.speech.output_size
        self.stream = SpeakerStream(self.extractor.stats_size, size, self.speech.frame_shift / self.extractor.frame_shift)
        self.norm = torch.nn.LayerNorm(size)
        self.pool = LSTM(size, size, num_layers)
        self.mean_window, self.lora_targets = mean_window, self.speech.lora_targets
        self.output_size, self.frame_shift = size, self.speech.frame_shift
        # Numbered as those of the speech encoder; what is in front has no number.
        self.layers, self.num_layers = self.speech.layers, 1 + self.speech.num_layers

    def saved_conf(self, conf: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`SpeechEncoder.saved_conf`."""
        return {**conf, "speech_conf": self.speech.saved_conf(conf.get("speech_conf") or {}),
                "extractor_conf": self.extractor.saved_conf(conf.get("extractor_conf") or {})}

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`SpeechEncoder.forward`; the first layer is that of voices."""
        layers, sizes = self.speech(speech, lengths)
        with torch.no_grad():
            frames, frame_lengths = self.extractor.frames(speech, lengths, self.mean_window)
        stream = self.stream(torch.cat([frames, frames.square()], -1), frame_lengths, sizes)
        voices = self.pool(self.norm(stream), sizes)
        return torch.cat([voices.unsqueeze(0).to(layers.dtype), layers]), sizes
