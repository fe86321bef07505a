"""AAM-softmax: its equation, its limits; a speaker model in training."""

import math

import pytest
import torch
from torch.nn import functional as F

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.campplus import CAMPPlus
from espnet_mt_llm.models.speaker import AngularMargin, SpeakerModel


def test_loss_is_the_equation():
    torch.manual_seed(0)
    head = AngularMargin(5, 4, margin=0.3, scale=7.0).double()
    embeddings, speakers = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 0])
    found, cosines = head(embeddings, speakers)
    weight = head.weight.detach()
    for x, y, loss in zip(embeddings, speakers.tolist(), found):
        angles = [math.acos(float(x @ w / x.norm() / w.norm())) for w in weight]
        assert angles[y] < math.pi - 0.3  # where the equation holds as it stands
        terms = [math.exp(7.0 * math.cos(a + 0.3 * (j == y))) for j, a in enumerate(angles)]
        assert loss.item() == pytest.approx(-math.log(terms[y] / sum(terms)), abs=1e-5)
    assert cosines.shape == (6, 4) and cosines.abs().max() <= 1 + 1e-6


def test_without_margin_it_is_softmax_of_scaled_cosines():
    head = AngularMargin(5, 4, margin=0.0, scale=3.0)
    embeddings, speakers = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 1, 0])
    logits = 3.0 * F.linear(F.normalize(embeddings), F.normalize(head.weight))
    torch.testing.assert_close(head(embeddings, speakers)[0], F.cross_entropy(logits, speakers, reduction="none"))


def test_loss_grows_with_the_angle_over_the_half_circle_and_its_gradient_is_finite():
    head = AngularMargin(2, 2, margin=0.2, scale=4.0)
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    # The other weight is at right angles on one side: on the other side only the speaker's own term changes the order.
    angles = torch.linspace(0, math.pi, 50)
    embeddings = torch.stack([angles.cos(), angles.sin()], 1).requires_grad_()
    logits = []
    for e in embeddings:
        own = head(e[None], torch.tensor([0]))[0]
        other = 4.0 * F.cosine_similarity(e, head.weight[1], dim=0)
        logits.append((other - torch.log(torch.expm1(own[0]))).item())
    assert all(a > b - 1e-4 for a, b in zip(logits, logits[1:]))
    for value in (torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), torch.zeros(1, 2)):
        value.requires_grad_()
        head(value, torch.tensor([0]))[0].sum().backward()
        assert value.grad.isfinite().all()


@pytest.mark.parametrize("conf", [{"margin": -0.1}, {"margin": 2.0}, {"scale": 0.0}])
def test_numbers_that_make_no_sense_are_refused(conf):
    with pytest.raises(ValueError):
        AngularMargin(4, 2, **conf)


def test_a_stretch_without_a_finite_loss_is_left_out():
    encoder = CAMPPlus(frozen=False, num_mels=16, embedding_size=8, head_channels=4, init_channels=8, growth_rate=4,
                       bn_size=2, num_layers=[1, 1, 1])
    model = SpeakerModel(encoder, 3).eval()
    speech, lengths = 0.1 * torch.randn(3, 8000), torch.full((3,), 8000)
    speaker = torch.tensor([[0], [2], [1]])
    loss, stats, weight = model(speech, lengths, speaker)
    assert float(weight) == 3 and 0 <= float(stats["acc"]) <= 1 and loss.isfinite()
    broken = speech.clone()
    broken[1, 100] = float("nan")
    rest, _, weight = model(broken, lengths, speaker, utt_id=["a", "b", "c"])
    assert float(weight) == 2
    torch.testing.assert_close(rest, model(speech[[0, 2]], lengths[[0, 2]], speaker[[0, 2]])[0])
    with pytest.raises(UserError, match="not finite for a, b, c"):
        model(broken * float("nan"), lengths, speaker, utt_id=["a", "b", "c"])
