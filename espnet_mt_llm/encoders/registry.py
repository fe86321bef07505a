"""The encoders by name; the module of one is imported when it is asked for."""

from importlib import import_module

from espnet_mt_llm.common import UserError, nearest
from espnet_mt_llm.encoders.interface import SpeakerEncoder, SpeechEncoder

SPEECH_CLASSES = {"e_branchformer": "EBranchformer", "owsm": "Owsm", "sensevoice": "SenseVoice", "whisper": "Whisper",
                  "wavlm": "WavLM", "speaker_aware": "SpeakerAware"}
SPEAKER_CLASSES = {"campplus": "CAMPPlus", "eres2netv2": "ERes2NetV2"}
SPEECH = tuple(SPEECH_CLASSES)
SPEAKER = tuple(SPEAKER_CLASSES)


def speech_encoder(name: str) -> type[SpeechEncoder]:
    """Return the class of a speech encoder.

    Raises:
        UserError: no such encoder, or a package that it needs is missing.
    """
    return _load(name, SPEECH_CLASSES, "encoder")


def speaker_encoder(name: str) -> type[SpeakerEncoder]:
    """Return the class of a speaker encoder.

    Raises:
        UserError: no such encoder, or a package that it needs is missing.
    """
    return _load(name, SPEAKER_CLASSES, "speaker_encoder")


def _load(name: str, classes: dict[str, str], key: str) -> type:
    if name not in classes:
        raise UserError(f"{key}: unknown encoder '{name}'; {nearest(name, list(classes))}")
    return getattr(import_module(f"espnet_mt_llm.encoders.{name}"), classes[name])
