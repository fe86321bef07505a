"""The speaker-aware encoder: a layer of voices in front of those of a speech encoder, which stay what they are."""

from typing import Any

import pytest
import torch

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.e_branchformer import EBranchformer
from espnet_mt_llm.encoders.speaker_aware import SpeakerAware

SPEECH = {"output_size": 16, "num_blocks": 3, "attention_heads": 2, "mlp_size": 32, "kernel": 7,
          "frontend_conf": {"stack": 6}}
EXTRACTOR = {"num_mels": 16, "embedding_size": 12, "head_channels": 4, "init_channels": 8, "growth_rate": 4,
             "bn_size": 2, "num_layers": [2, 2, 1]}
CONF: dict[str, Any] = {"speech_conf": SPEECH, "extractor_conf": EXTRACTOR}


def small(**conf: Any) -> SpeakerAware:
    torch.manual_seed(0)
    return SpeakerAware(**{**CONF, **conf}).eval()


def test_voices_stand_in_front_of_the_layers_of_the_speech_encoder() -> None:
    encoder = small(layers=[2, -1])
    speech, lengths = torch.randn(2, 20000), torch.tensor([20000, 9000])
    hidden, frames = encoder(speech, lengths)
    alone = EBranchformer(layers=[2, -1], **SPEECH).eval()
    alone.load_state_dict(encoder.speech.state_dict())
    expected, counts = alone(speech, lengths)
    assert hidden.shape == (3, 2, 21, 16) == (encoder.num_layers, 2, 21, encoder.output_size)
    assert torch.equal(hidden[1:], expected) and torch.equal(frames, counts)
    assert encoder.layers == alone.layers and encoder.frame_shift == alone.frame_shift == 0.06
    assert not torch.equal(hidden[0], expected[0])


def test_contract(contract) -> None:
    assert contract.batch(small(layers=[-1]), [20000, 9000, 700]) == [21, 9, 1]
    contract.saving(SpeakerAware, {**CONF, "layers": [-1], "mean_window": 0.5})
    with pytest.raises(UserError, match="there is no layer '4'; layers are 1 to 3"):
        small(layers=[4])


@pytest.mark.parametrize("freeze, speech", [(0, True), (-1, False)])
def test_what_pools_voices_learns_and_the_extractor_does_not(freeze: int, speech: bool) -> None:
    encoder = small(layers=[-1], freeze_layers=freeze).train()
    statistics = {name: value.clone() for name, value in encoder.extractor.state_dict().items()}
    hidden, _ = encoder(torch.randn(2, 20000), torch.tensor([20000, 9000]))
    hidden.square().sum().backward()
    learnt = {name.split(".")[0] for name, p in encoder.named_parameters() if p.grad is not None}
    assert learnt == {"stream", "norm", "pool", *(["speech"] if speech else [])}
    for name, value in encoder.extractor.state_dict().items():
        assert torch.equal(value, statistics[name])


def test_the_mean_of_features_is_taken_around_each_frame() -> None:
    """What is said at the other end of a long clip hardly changes what is heard of a voice here."""
    torch.manual_seed(1)
    here, there = torch.randn(1, 32000), 5 * torch.randn(1, 64000)
    clips = [torch.cat([here, other], 1) for other in (torch.zeros_like(there), there)]
    away = []
    for window in (1.0, None):
        extractor = small(mean_window=window).extractor
        quiet, loud = (extractor.frames(clip, torch.tensor([96000]), window)[0][:, :50] for clip in clips)
        away.append((quiet - loud).abs().mean())
    # Not at all, but for the contexts of CAM++, which are means of frames over the clip.
    assert away[0] < 0.1 * away[1]


@pytest.mark.parametrize("conf, message", [
    ({"speech": "speaker_aware"}, "stands around another encoder; name that one"),
    ({"speech": "sensevoce"}, "unknown encoder 'sensevoce'"),
    ({"extractor": "campus"}, "unknown encoder 'campus'"),
    ({"mean_window": 0}, "mean_window: 0; seconds above 0"), ({"mean_window": "1 s"}, "mean_window: '1 s'"),
])
def test_wrong_arguments(conf: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**conf)
