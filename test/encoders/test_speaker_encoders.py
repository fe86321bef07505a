"""CAM++ and ERes2NetV2: equal to funasr's on checkpoints in the published format; chunks, padding, messages."""

from typing import Any, Callable

import pytest
import torch
import yaml

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.extractor import Extractor
from espnet_mt_llm.encoders.registry import SPEAKER, speaker_encoder

SMALL: dict[str, dict[str, Any]] = {
    "campplus": {"num_mels": 16, "embedding_size": 12, "head_channels": 4, "init_channels": 8, "growth_rate": 4,
                 "bn_size": 2, "num_layers": [2, 2, 1]},
    "eres2netv2": {"num_mels": 16, "embedding_size": 12, "channels": 8, "base_width": 16, "scale": 3, "expansion": 2,
                   "num_blocks": [1, 2, 1, 1]},
}
both = pytest.mark.parametrize("name", SPEAKER)


def shaken(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Change what starts as a constant, so that what it does is seen."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if "running_var" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            spread = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.2 * spread if value.dim() == 1 else spread * value[0].numel() ** -0.5)
    return module.eval()


def small(name: str, **changes: Any) -> Extractor:
    return shaken(speaker_encoder(name)(frozen=False, **{**SMALL[name], **changes}))


def theirs(module: Callable, name: str, **sizes: Any) -> torch.nn.Module:
    """Return funasr's extractor, of the released size where no other is given."""
    if name == "campplus":
        return module("funasr.models.campplus.model").CAMPPlus(**sizes)
    return module("funasr.models.eres2net.eres2netv2").ERes2NetV2(**sizes)


def speech(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise in a batch, loud noise behind each clip's end, and the lengths."""
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(len(lengths), max(lengths), generator=generator) * 0.1
    for row, length in zip(samples, lengths):
        row[length:] = 1.0
    return samples, torch.tensor(lengths)


@both
def test_weights_have_the_published_names_and_shapes(module, name):
    own = speaker_encoder(name)(frozen=False).state_dict()
    with torch.device("meta"):
        published = theirs(module, name).state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in published.items()}


@both
def test_equal_to_funasr_from_a_published_checkpoint(module, name, tmp_path):
    ours, their = {"campplus": ({"growth_rate": 8, "init_channels": 16, "bn_size": 2},) * 2,
                   "eres2netv2": ({"channels": 8, "num_blocks": [1, 2, 1, 1], "scale": 3},
                                  {"m_channels": 8, "num_blocks": [1, 2, 1, 1], "scale": 3})}[name]
    from funasr.models.campplus.utils import extract_feature

    model = shaken(theirs(module, name, **their))
    kind = speaker_encoder(name)
    torch.save(model.state_dict(), tmp_path / kind.released)
    for checkpoint in (tmp_path, tmp_path / kind.released):
        encoder = kind(16000, str(checkpoint), **ours).eval()
    samples, lengths = speech(33333, 16000, 4000)
    embeddings = encoder(samples, lengths)
    for row, length, found in zip(samples, lengths, embeddings):
        with torch.no_grad():
            wanted = model(extract_feature([row[:length]])[0])[0]
        torch.testing.assert_close(found, wanted, atol=1e-4 * wanted.abs().max().item(), rtol=1e-4)


@both
def test_padding_reaches_no_valid_frame(name):
    encoder = small(name)
    # More and fewer frames than a segment of CAM++, less than one frame, and lengths that divide by nothing.
    samples, lengths = speech(41237, 16000, 5555, 150)
    with torch.no_grad():
        embeddings, (chunks, counts) = encoder(samples, lengths), encoder.chunks(samples, lengths)
        for i, n in enumerate(lengths.tolist()):
            alone, (own, count) = (f(samples[i : i + 1, :n], lengths[i : i + 1]) for f in (encoder, encoder.chunks))
            torch.testing.assert_close(embeddings[i], alone[0], atol=2e-5, rtol=1e-4)
            assert count.tolist() == [counts[i]] and own.size(1) == counts[i]
            # One frame has no deviation: what is left of it is rounding.
            torch.testing.assert_close(chunks[i, : counts[i]], own[0], atol=2e-4, rtol=1e-3)
            assert (chunks[i, counts[i]:] == 0).all()
    assert embeddings.isfinite().all() and chunks.isfinite().all()
    assert counts[-1] == 1


@both
def test_chunks_are_embeddings_of_statistics(name):
    encoder = small(name)
    samples, lengths = speech(30000, 21000)
    with torch.no_grad():
        frames, counts = encoder.frames(samples, lengths)
        chunks, found = encoder.chunks(samples, lengths)
        raw, _ = encoder.chunks(samples, lengths, sizes=[0.4], raw=True)
    assert found.tolist() == counts.tolist()
    assert abs(int(counts[0]) * encoder.frame_shift - 30000 / 16000) <= encoder.frame_shift
    assert chunks.shape == (2, frames.size(1), 3 * encoder.embedding_size)
    assert raw.shape == (2, frames.size(1), encoder.stats_size) and encoder.stats_size == 2 * frames.size(2)
    for k, seconds in enumerate((0.4, 0.2, 0.1)):
        size = max(1, round(seconds / encoder.frame_shift))
        assert encoder.chunk_frames(seconds) == size
        chunk = frames[1, size : 2 * size]
        statistics = torch.cat([chunk.mean(0), (chunk.var(0, unbiased=False) + 1e-5).sqrt()])
        with torch.no_grad():
            wanted = encoder._dense(statistics[None])[0]
        part = chunks[1, :, k * encoder.embedding_size : (k + 1) * encoder.embedding_size]
        for t in range(size, 2 * size):
            torch.testing.assert_close(part[t], wanted, atol=1e-5, rtol=1e-4)


def test_frames_of_chunks_are_those_of_the_paper():
    assert [small("campplus").chunk_frames(s) for s in (0.4, 0.2, 0.1)] == [20, 10, 5]


@both
def test_gradients_are_finite_and_frozen_extractors_have_none(name):
    encoder = small(name).train()
    samples, lengths = speech(8000, 8000)
    samples[1] = 0
    encoder(samples, lengths).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    frozen = speaker_encoder(name)(**SMALL[name]).train()
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    assert not frozen(samples, lengths).requires_grad
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())


@both
def test_trained_extractors_bring_their_sizes(name, tmp_path):
    encoder = small(name)
    state = {**{f"encoder.{key}": value for key, value in encoder.state_dict().items()}, "margin.weight": torch.ones(2)}
    torch.save(state, tmp_path / "latest.pth")
    saved = encoder.saved_conf({"frozen": False})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"encoder": name, "rate": 16000, "encoder_conf": saved}))
    samples, lengths = speech(8000, 7000)
    for checkpoint in (tmp_path, tmp_path / "latest.pth"):
        loaded = speaker_encoder(name)(16000, str(checkpoint)).eval()
        torch.testing.assert_close(loaded(samples, lengths), encoder(samples, lengths))
    # What a model's config.yaml keeps builds it without the checkpoint.
    again = speaker_encoder(name)(16000, **loaded.saved_conf({"checkpoint": str(tmp_path)}))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in loaded.state_dict().items()}
    with pytest.raises(UserError, match="takes 16000 Hz, the data have 8000"):
        speaker_encoder(name)(8000, str(tmp_path))
    other = SPEAKER[1 - SPEAKER.index(name)]
    with pytest.raises(UserError, match=f"the encoder is '{name}', not {other}"):
        speaker_encoder(other)(16000, str(tmp_path))


@both
def test_what_is_wrong_is_told(name, tmp_path):
    kind = speaker_encoder(name)
    for conf in ({}, {"checkpoint": str(tmp_path)}, {"checkpoint": str(tmp_path / "nowhere")}):
        with pytest.raises(UserError, match=f"{kind.released} of {kind.model_id} from modelscope.cn"):
            kind(16000, **conf)
    torch.save(small(name, embedding_size=8).state_dict(), tmp_path / kind.released)
    with pytest.raises(UserError, match="do not fit .*of another shape"):
        kind(16000, str(tmp_path), **SMALL[name])
    (tmp_path / kind.released).write_bytes(b"no weights")
    with pytest.raises(UserError, match="not weights of torch"):
        kind(16000, str(tmp_path))
    with pytest.raises(UserError, match="unknown key 'embeding_size'; did you mean 'embedding_size'"):
        kind(16000, frozen=False, embeding_size=8)
    with pytest.raises(UserError, match="num_mels 20 is no multiple of 8"):
        kind(16000, frozen=False, num_mels=20)
    with pytest.raises(UserError, match="give positive sizes"):
        small(name).chunks(*speech(8000), sizes=[0.4, 0.0])
