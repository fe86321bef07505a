"""Residual weighted-sum encoding against its formula."""

import pytest
import torch

from espnet_mt_llm.nets.rwse import ResidualWeightedSum

TASKS = ("diarization", "separation", "recognition")


def hidden(layers: int = 5) -> torch.Tensor:
    return torch.randn(layers, 2, 7, 6, generator=torch.Generator().manual_seed(layers)).requires_grad_()


def test_equals_the_formula() -> None:
    states, net = hidden(), ResidualWeightedSum(5, TASKS)
    torch.nn.init.normal_(net.logits)
    for k, (task, output) in enumerate(net(states).items()):
        weights = net.logits[k].softmax(0)
        torch.testing.assert_close(output, sum(w * h for w, h in zip(weights, states)) + states[-1])
        torch.testing.assert_close(net.weights()[task], weights.detach())


def test_starts_with_equal_weights() -> None:
    states = hidden()
    for output in ResidualWeightedSum(5, TASKS)(states).values():
        torch.testing.assert_close(output, states.mean(0) + states[-1])


@pytest.mark.parametrize("layer", [0, 4])
def test_one_hot_weights_give_one_layer(layer: int) -> None:
    states, net = hidden(), ResidualWeightedSum(5, TASKS)
    with torch.no_grad():
        net.logits[:, layer] = 1000.0
    for output in net(states).values():  # twice the last layer where that is the one
        torch.testing.assert_close(output, states[layer] + states[-1])


def test_shared_weights_are_one_set() -> None:
    states, net = hidden(), ResidualWeightedSum(5, TASKS, shared=True)
    torch.nn.init.normal_(net.logits)
    assert net.logits.numel() == 5
    first, *others = net(states).values()
    assert all(torch.equal(first, other) for other in others)
    assert all(torch.equal(net.weights()[TASKS[0]], w) for w in net.weights().values())


def test_layer_norm_is_of_the_sum_not_of_the_residual() -> None:
    states, net = hidden(), ResidualWeightedSum(5, TASKS, size=6, layer_norm=True)
    scaled = states.detach() * torch.tensor([1.0, 10.0, 100.0, 0.1, 1.0])[:, None, None, None]
    for one, other in zip(net(states).values(), net(scaled).values()):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)
        mean = torch.nn.functional.layer_norm(states, (6,)).mean(0)
        torch.testing.assert_close(one, mean + states[-1], atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in net.parameters()) == 3 * 5 + 5 * 2 * 6


def test_last_only_is_the_last_layer_alone() -> None:
    states, net = hidden(), ResidualWeightedSum(5, TASKS, size=6, layer_norm=True, last_only=True)
    assert not list(net.parameters())
    assert all(torch.equal(output, states[-1]) for output in net(states).values())
    assert net.weights()["diarization"].tolist() == [0, 0, 0, 0, 1]


def test_each_task_reaches_every_layer_and_its_own_weights_alone() -> None:
    for k, task in enumerate(TASKS):
        states, net = hidden(), ResidualWeightedSum(5, TASKS)
        net(states)[task].square().sum().backward()
        assert (states.grad.flatten(1).abs().sum(1) > 0).all()
        assert [bool(row.abs().sum() > 0) for row in net.logits.grad] == [i == k for i in range(3)]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="4 layers where 5"):
        ResidualWeightedSum(5, TASKS)(hidden(4))
    with pytest.raises(ValueError, match="size"):
        ResidualWeightedSum(5, TASKS, layer_norm=True)
    with pytest.raises(ValueError, match="no task"):
        ResidualWeightedSum(5, [])
