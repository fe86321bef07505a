"""The talker-count head against its formula written in numpy."""

import numpy as np
import torch

from espnet_mt_llm.nets.talker_count import TalkerCountHead


def test_formula() -> None:
    torch.manual_seed(0)
    head = TalkerCountHead(6, 3, attention_size=4, hidden_size=5).eval()
    hidden, lengths = torch.randn(2, 7, 6), torch.tensor([7, 4])
    logits = head(hidden, lengths).detach().numpy()
    w, b = (p.detach().numpy() for p in (head.attention[0].weight, head.attention[0].bias))
    v = head.attention[2].weight.detach().numpy()[0]
    norm, first, last = head.classifier[0], head.classifier[1], head.classifier[4]
    for i, n in enumerate(lengths.tolist()):
        h = hidden[i, :n].numpy().astype(float)
        e = np.tanh(h @ w.T + b) @ v
        a = np.exp(e - e.max()) / np.exp(e - e.max()).sum()
        mu = a @ h
        sigma = np.sqrt(np.maximum(a @ (h * h) - mu * mu, 1e-6))
        with torch.no_grad():
            z = last(torch.nn.functional.gelu(first(norm(torch.tensor(np.r_[mu, sigma]).float()))))
        np.testing.assert_allclose(logits[i], z.numpy(), atol=1e-5)


def test_constant_input_has_finite_gradient() -> None:
    head = TalkerCountHead(4, 2)
    hidden = torch.ones(1, 5, 4, requires_grad=True)
    head(hidden, torch.tensor([5])).sum().backward()
    assert torch.isfinite(hidden.grad).all()


def test_order_of_frames_does_not_matter() -> None:
    head = TalkerCountHead(4, 3).eval()
    hidden = torch.randn(1, 9, 4)
    torch.testing.assert_close(head(hidden, torch.tensor([9])), head(hidden.flip(1), torch.tensor([9])))
