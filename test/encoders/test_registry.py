"""Every encoder is found by its name, and its packages are imported only then."""

import subprocess
import sys

import pytest

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders import registry
from espnet_mt_llm.encoders.interface import SpeakerEncoder, SpeechEncoder


def test_every_name_has_a_class() -> None:
    assert registry.SPEECH == ("e_branchformer", "owsm", "sensevoice", "whisper", "wavlm", "speaker_aware")
    assert registry.SPEAKER == ("campplus", "eres2netv2")
    for name in registry.SPEECH:
        assert issubclass(registry.speech_encoder(name), SpeechEncoder)
    for name in registry.SPEAKER:
        assert issubclass(registry.speaker_encoder(name), SpeakerEncoder)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="encoder: unknown encoder 'sensevoce'; did you mean 'sensevoice'?"):
        registry.speech_encoder("sensevoce")
    with pytest.raises(UserError, match="speaker_encoder: unknown encoder 'owsm'; valid: campplus, eres2netv2"):
        registry.speaker_encoder("owsm")


def test_nothing_large_is_imported_with_the_classes() -> None:
    code = ("import sys; from espnet_mt_llm.encoders import registry as r; "
            "[r.speech_encoder(n) for n in r.SPEECH] + [r.speaker_encoder(n) for n in r.SPEAKER]; "
            "print([m for m in ('transformers', 'funasr', 'espnet2', 'torchaudio') if m in sys.modules])")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
