"""The speech LLM: padding, places of audio and voices, losses, clips that are left out, what is trained."""

from typing import Any, Optional

import pytest
import torch
from torch.nn import functional as F

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.interface import SpeakerEncoder, SpeechEncoder
from espnet_mt_llm.models.llm import LLM
from espnet_mt_llm.models.speech_llm import AUDIO, ENROLLED, SpeechLLM
from espnet_mt_llm.nets.layouts import FeatureConcat, Interleave, Semantic, TimeConcat
from espnet_mt_llm.nets.projectors import MLPAdapter, TransformerProjector
from espnet_mt_llm.nets.registration import RegistrationProjector
from espnet_mt_llm.nets.speaker_loss import SPEAKER
from espnet_mt_llm.nets.speaker_stream import SpeakerStream
from espnet_mt_llm.nets.voice_loss import VoiceLoss
from espnet_mt_llm.text.prompts import AUDIO as AUDIO_PLACE
from espnet_mt_llm.text.prompts import enroll

H, V, E = 16, 40, 6
LAYOUTS = {"semantic": lambda: Semantic(H), "feature_concat": lambda: FeatureConcat(H),
           "time_concat": lambda: TimeConcat(H, [[k] for k in range(1, 20)], chunk=4),
           "interleave": lambda: Interleave(H, chunk=4, speaker_ratio=0.5)}


class Frames(SpeechEncoder):
    """Each 100 samples a frame: two layers of linear functions of them."""

    def __init__(self) -> None:
        super().__init__()
        self.output_size, self.frame_shift = 8, 0.01
        self.first, self.second = torch.nn.Linear(100, 8), torch.nn.Linear(100, 8)
        self.use_layers(None, 0, [], [self.first, self.second])

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.nn.functional.pad(speech, (0, -speech.size(1) % 100)).unflatten(1, (-1, 100))
        return torch.stack([self.first(frames), self.second(frames)]), (lengths + 99) // 100


class Voices(SpeakerEncoder):
    """Each 50 samples a frame."""

    embedding_size, frame_shift = E, 0.005

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(50, E)

    def frames(self, speech: torch.Tensor, lengths: torch.Tensor, mean_window: Optional[float] = None
               ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.chunks(speech, lengths, (1.0,))

    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.chunks(speech, lengths, (1.0,))[0].mean(1)

    def chunks(self, speech: torch.Tensor, lengths: torch.Tensor, sizes: Any = (1, 2), raw: bool = False,
               mean_window: Optional[float] = None) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.nn.functional.pad(speech, (0, -speech.size(1) % 50)).unflatten(1, (-1, 50))
        return self.layer(frames).repeat(1, 1, len(sizes)), (lengths + 49) // 50


def tiny_llm(positions: int = 200) -> LLM:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return LLM(Qwen2ForCausalLM(Qwen2Config(
        vocab_size=V, hidden_size=H, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=positions)), False)


def model_of(layout: Optional[str] = "interleave", positions: int = 200, **conf: Any) -> SpeechLLM:
    torch.manual_seed(0)
    if layout is None:
        return SpeechLLM(tiny_llm(positions), **conf).eval()
    parts: dict[str, Any] = {"layout": LAYOUTS[layout](), "registration": RegistrationProjector(E, H)}
    adapter = TransformerProjector(16, H, heads=2, stride=2) if layout == "semantic" else MLPAdapter(16, H)
    if parts["layout"].uses_speaker:
        parts |= {"speaker_stream": SpeakerStream(2 * E, 10, 2), "speaker_adapter": MLPAdapter(10, H)}
    return SpeechLLM(tiny_llm(positions), Frames(), adapter, speaker_encoder=Voices(), chunk_sizes=(1.0, 2.0),
                     **parts, **conf).eval()


def batch_of() -> dict[str, Any]:
    """Three clips of unlike lengths; two, no and one registered voices."""
    g = torch.Generator().manual_seed(2)
    prompts = [[3, ENROLLED, 4, ENROLLED - 1, 5, AUDIO, 6], [5, AUDIO, 6], [3, ENROLLED, 4, 5, AUDIO, 6]]
    targets = [[7, 8, 9, 1], [7, 1], [9, 9, 8, 7, 7, 1]]
    kinds = [[0, 1, 2, 3], [0, 3], [0, 0, 1, 2, 0, 3]]

    def pad(rows: list, kind: torch.dtype = torch.long) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(r, dtype=kind) for r in rows], batch_first=True)

    lengths = torch.tensor([1730, 2300, 900])
    speech = torch.randn(3, 2300, generator=g)
    for row, size in zip(speech, lengths):
        row[size:] = 0
    return {"speech": speech, "speech_lengths": lengths, "prompt": pad(prompts),
            "prompt_lengths": torch.tensor([7, 3, 6]), "target": pad(targets),
            "target_lengths": torch.tensor([4, 2, 6]), "types": pad(kinds),
            "weights": (pad(kinds) == 2).float() * 3, "overlapped": (pad(targets) == 9).long(),
            "enrolled": torch.randn(3, 2, E, generator=g), "utt_id": ["a", "b", "c"]}


def one(batch: dict, row: int) -> dict:
    """A clip of a batch alone, without its padding."""
    sizes = {name: int(batch[f"{name}_lengths"][row]) for name in ("speech", "prompt", "target")}
    cut = {**sizes, "types": sizes["target"], "weights": sizes["target"], "overlapped": sizes["target"],
           "enrolled": sum(1 for i in batch["prompt"][row, : sizes["prompt"]].tolist() if i <= ENROLLED)}
    out = {name: batch[name][row : row + 1, :size] for name, size in cut.items()}
    return {**out, **{f"{name}_lengths": torch.tensor([size]) for name, size in sizes.items()},
            "utt_id": [batch["utt_id"][row]]}


def test_places_are_those_of_the_prompts() -> None:
    assert AUDIO == AUDIO_PLACE and [enroll(k) for k in range(3)] == [ENROLLED - k for k in range(3)]


@pytest.mark.parametrize("layout", [*LAYOUTS, None])
def test_a_clip_has_the_same_loss_alone_and_padded(layout: Optional[str]) -> None:
    model, batch = model_of(layout), batch_of()
    with torch.no_grad():
        loss, _, weight = model(**batch)
        alone = torch.cat([model(**one(batch, row))[0] for row in range(3)])
    sizes = batch["target_lengths"]
    torch.testing.assert_close(loss.squeeze(), (alone * sizes).sum() / sizes.sum())
    assert weight == 3


@pytest.mark.parametrize("layout", [*LAYOUTS, None])
def test_decoding_begins_where_training_does(layout: Optional[str]) -> None:
    """Tokens after the left-padded input have the losses of the training."""
    model, batch = model_of(layout), batch_of()
    with torch.no_grad():
        embeds, mask = model.prepare(batch["speech"], batch["speech_lengths"], batch["prompt"],
                                     batch["prompt_lengths"], batch["enrolled"])
        assert all(row == sorted(row) and row[-1] for row in mask.tolist())  # padding in front alone
        assert embeds[mask == 0].abs().sum() == 0
        known = torch.arange(batch["target"].size(1)) < batch["target_lengths"].unsqueeze(1)
        hidden = model.llm.hidden(torch.cat([embeds, model.llm.embed(batch["target"])], 1),
                                  torch.cat([mask, known.long()], 1))
        logits = model.llm.logits(hidden[:, mask.size(1) - 1 : -1])
        expected = torch.nn.functional.cross_entropy(logits[known], batch["target"][known])
        torch.testing.assert_close(model(**batch)[0].squeeze(), expected)


def test_input_is_prompt_audio_and_voices_in_their_places() -> None:
    model, batch = model_of("semantic"), batch_of()
    with torch.no_grad():
        embeds, mask = model.prepare(batch["speech"], batch["speech_lengths"], batch["prompt"],
                                     batch["prompt_lengths"], batch["enrolled"])
        frames, counts = model.positions(model.hear(batch["speech"], batch["speech_lengths"]))
        voices = model.registration(batch["enrolled"])
        token = model.llm.embed
        parts = [token(torch.tensor([3])), voices[0, :1], token(torch.tensor([4])), voices[0, 1:],
                 token(torch.tensor([5])), frames[0, : counts[0]], token(torch.tensor([6]))]
    torch.testing.assert_close(embeds[0][mask[0] == 1], torch.cat(parts))
    assert counts.tolist() == [9, 12, 5]  # 100 samples a frame, two frames a position


def test_order_of_registration_is_that_of_names_and_voices_together() -> None:
    model, batch = model_of(), one(batch_of(), 0)
    swapped = {**batch, "enrolled": batch["enrolled"].flip(1),
               "prompt": batch["prompt"].clone()}
    swapped["prompt"][0, 1], swapped["prompt"][0, 3] = ENROLLED - 1, ENROLLED
    with torch.no_grad():
        assert torch.equal(model(**batch)[0], model(**swapped)[0])
        assert not torch.equal(model(**batch)[0], model(**{**swapped, "enrolled": batch["enrolled"]})[0])


@pytest.mark.parametrize("layout", ["semantic", "interleave"])
def test_frames_that_were_kept_stand_for_the_audio(layout: str) -> None:
    model, batch = model_of(layout), batch_of()
    with torch.no_grad():
        heard = model.hear(batch["speech"], batch["speech_lengths"])
        kept = {name: value for name, value in batch.items() if not name.startswith("speech")}
        kept |= {"semantic": heard.semantic, "semantic_lengths": heard.lengths}
        if heard.speaker is not None:
            kept |= {"speaker": heard.speaker, "speaker_lengths": heard.speaker_lengths}
        torch.testing.assert_close(model(**kept)[0], model(**batch)[0])


def test_no_mask_is_the_loss_of_the_stage_before() -> None:
    batch = batch_of()
    with torch.no_grad():
        losses = {key: model_of(loss=loss, threshold=threshold)(**batch)[0]
                  for key, (loss, threshold) in {"none": ("asr_spk", "adaptive"), "inf": ("balanced", float("inf")),
                                                 "zero": ("balanced", 0)}.items()}
        _, stats, _ = model_of(loss="balanced")(**batch)
    torch.testing.assert_close(losses["none"], losses["inf"])
    torch.testing.assert_close(losses["zero"], stats["loss_spk"])
    assert 0 <= stats["masked_clean"] <= 1 and 0 <= stats["masked_overlapped"] <= 1


@pytest.mark.parametrize("scale", [None, 8.0])
def test_the_loss_of_voices_is_added_and_reaches_the_adapter(scale: Optional[float]) -> None:
    talking = torch.tensor([[1, 1, 0, 2], [0, 1, 1, 0], [0] * 4])
    batch = {**batch_of(), "voices": torch.randn(3, 2, E), "talking": talking}
    model = model_of("semantic", voice=VoiceLoss(H, E), voice_weight=0.5, voice_scale=scale)
    loss, stats, _ = model(**batch)
    frames, _ = model.positions(model.hear(batch["speech"], batch["speech_lengths"]))
    away = model.voice(frames, batch["voices"], batch["talking"], scale)
    torch.testing.assert_close(loss.squeeze(), model_of("semantic")(**batch)[0].squeeze() + 0.5 * away)
    torch.testing.assert_close(stats["loss_voice"].squeeze(), away.detach())
    (grad,) = torch.autograd.grad(away, model.encoder.first.weight)
    assert grad.abs().sum() > 0


def test_the_encoder_learns_voices_and_keeps_its_last_layer_and_the_language_model_is_not_asked() -> None:
    torch.manual_seed(1)
    before, voice = Frames().requires_grad_(False), VoiceLoss(8, E)
    model = model_of("semantic", before=before, voice=voice, loss="keep", voice_weight=0.5)
    model.llm = None
    batch = {**batch_of(), "voices": torch.randn(3, 2, E), "talking": torch.tensor([[1, 1, 0, 2], [0] * 4, [2] * 4])}
    loss, stats, weight = model(**batch)
    (layers, lengths), (known, _) = (part(batch["speech"], batch["speech_lengths"]) for part in (model.encoder, before))
    kept = [(layers[-1, row, :size] - known[-1, row, :size]).square() for row, size in enumerate(lengths)]
    away = voice(layers[0], batch["voices"], batch["talking"])
    torch.testing.assert_close(stats["loss_keep"].squeeze(), torch.cat(kept).mean().detach())
    torch.testing.assert_close(loss.squeeze(), torch.cat(kept).mean() + 0.5 * away)
    assert weight == 3
    alone = [model(**one(batch, row))[0].squeeze() for row in range(3)]
    torch.testing.assert_close(torch.stack(alone), torch.stack([each.mean() for each in kept]))
    batch["speech"][1, 5] = float("nan")
    torch.testing.assert_close(model(**{name: batch[name] for name in batch if name not in ("voices", "talking")})[0]
                               .squeeze(), torch.cat([kept[0], kept[2]]).mean())


def test_the_encoder_learns_words_by_ctc_of_its_last_layer() -> None:
    torch.manual_seed(1)
    before, ctc = Frames().requires_grad_(False), torch.nn.Linear(8, 21)
    model = model_of("semantic", before=before, ctc=ctc, loss="keep", ctc_weight=2.0)
    batch = batch_of()
    # A clip with speakers between its words, one with more words than frames, one without words.
    size = batch["target"].size(1)
    batch["types"][0] = torch.tensor([2, *[0] * (size - 2), 3])
    batch["types"][1], batch["types"][2] = 0, 2
    batch["target_lengths"][:] = size
    loss, stats, _ = model(**batch)
    layers, lengths = model.encoder(batch["speech"], batch["speech_lengths"])
    losses = []
    for row, frames in enumerate(lengths.tolist()):
        words = batch["target"][row][batch["types"][row] == 0] + 1
        log_probs = ctc(layers[-1, row, :frames]).log_softmax(-1)
        each = F.ctc_loss(log_probs, words, torch.tensor(frames), torch.tensor(len(words)), reduction="sum")
        losses.append(each / max(1, len(words)) if each.isfinite() else torch.tensor(0.0))
    torch.testing.assert_close(stats["loss_ctc"].squeeze(), torch.stack(losses).mean().detach())
    torch.testing.assert_close(loss.squeeze(), stats["loss_keep"].squeeze() + 2 * torch.stack(losses).mean())
    assert losses[0] > 0 and losses[2] > 0  # the blanks of a clip without words


@pytest.mark.parametrize("layout, loss", [("semantic", {}), ("interleave", {}),
                                          ("semantic", {"loss": "balanced", "threshold": 0})])
def test_the_loss_of_voices_in_answers_is_of_the_states_that_predict(layout: str, loss: dict) -> None:
    """Of each token; where labels alone are learnt, of each label."""
    batch = {**batch_of(), "voices": torch.randn(3, 2, E), "saying": torch.tensor([[1] * 4 + [0] * 2, [0] * 6,
                                                                                   [1, 1, 2, 2, 2, 0]])}
    model = model_of(layout, answer_voice=VoiceLoss(H, E), voice_weight=0.5, voice_layer=1, voice_scale=8.0,
                     **loss)
    whose = batch["saying"] if not loss else torch.where(batch["types"] == SPEAKER, batch["saying"], 0)
    assert (whose > 0).sum() == (2 if loss else 9)
    with torch.no_grad():
        total, stats, _ = model(**batch)
        embeds, mask = model.prepare(batch["speech"], batch["speech_lengths"], batch["prompt"],
                                     batch["prompt_lengths"], batch["enrolled"])
        _, states = model.llm.states(torch.cat([embeds, model.llm.embed(batch["target"])], 1),
                                     torch.cat([mask, torch.ones_like(batch["target"])], 1), 1)
        away = model.answer_voice(states[:, mask.size(1) - 1 : -1], batch["voices"], whose, 8.0)
        torch.testing.assert_close(stats["loss_answer_voice"].squeeze(), away)
        torch.testing.assert_close(total.squeeze(), model_of(layout, **loss)(**batch)[0].squeeze() + 0.5 * away)


@pytest.mark.parametrize("bad", range(3))
def test_a_clip_without_a_finite_loss_is_left_out(caplog: pytest.LogCaptureFixture, bad: int) -> None:
    model, batch = model_of(), batch_of()
    batch["speech"][bad, 5] = float("nan")
    rest = [row for row in range(3) if row != bad]
    sizes = batch["target_lengths"][rest]
    with torch.no_grad():
        loss, _, weight = model(**batch)
        alone = torch.cat([model(**one(batch, row))[0] for row in rest])
    torch.testing.assert_close(loss.squeeze(), (alone * sizes).sum() / sizes.sum())
    assert weight == 2 and f"not finite for {'abc'[bad]}" in caplog.text
    with pytest.raises(UserError, match=f"not finite for {'abc'[bad]}: the whole batch"):
        model(**one(batch, bad))


def test_a_clip_longer_than_the_positions_is_named() -> None:
    model = model_of("semantic", positions=16)
    with pytest.raises(UserError, match=r"clip 'a' takes 19 positions, 9 of them for audio; the language model has 16"):
        model(**batch_of())


def test_a_clip_with_more_chunks_than_anchors() -> None:
    model = model_of("time_concat")
    with pytest.raises(UserError, match="layout: a clip of 100 frames has 25 chunks, there are 19 anchors"):
        model.prepare(torch.randn(1, 10000), torch.tensor([10000]), torch.tensor([[5, AUDIO]]), torch.tensor([2]))


def test_frozen_encoders_leave_no_graph() -> None:
    model, batch = model_of().train(), batch_of()
    for part in (model.encoder, model.speaker_encoder, model.llm):
        part.requires_grad_(False)
    heard = model.hear(batch["speech"], batch["speech_lengths"])
    assert not heard.semantic.requires_grad and not heard.speaker.requires_grad
    model(**batch)[0].backward()
    for name, p in model.named_parameters():
        frozen = name.startswith(("encoder.", "speaker_encoder.", "llm."))
        assert (p.grad is None) == frozen, name
    model.encoder.second.requires_grad_(True)
    assert model.hear(batch["speech"], batch["speech_lengths"]).semantic.requires_grad


def test_learns_by_heart() -> None:
    model, batch = model_of("interleave", loss="asr_spk").train(), batch_of()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss, stats, _ = model(**batch)
        loss.backward()
        optimizer.step()
    assert stats["acc"] > 0.9 and stats["acc_spk"] == 1


@pytest.mark.parametrize("conf, message", [({"loss": "asr_spks"}, "did you mean 'asr_spk'"),
                                           ({"threshold": 1.0}, "threshold: 1.0 is neither")])
def test_bad_loss(conf: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(None, **conf)
