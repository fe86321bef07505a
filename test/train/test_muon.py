"""Muon: which parameters are matrices, the size of their steps, learning rates from outside, resumption."""

import copy

import pytest
import torch

from espnet_mt_llm.train.muon import Muon


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.first = torch.nn.Linear(4, 6)
        self.frozen = torch.nn.Linear(6, 6).requires_grad_(False)
        self.out = torch.nn.Linear(6, 7, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.frozen(torch.tanh(self.first(self.embed(ids)))))


@pytest.fixture()
def model() -> Small:
    torch.manual_seed(0)
    return Small()


def learn(model: Small, optimizer: torch.optim.Optimizer, steps: int) -> float:
    ids = torch.arange(7)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(ids), ids.flip(0))
        loss.backward()
        optimizer.step()
    return loss.item()


def test_matrices_are_those_that_learn_and_are_no_embeddings(model: Small) -> None:
    matrices, rest = Muon(model).param_groups
    assert [id(p) for p in matrices["params"]] == [id(model.first.weight), id(model.out.weight)]
    assert [id(p) for p in rest["params"]] == [id(model.embed.weight), id(model.first.bias)]
    # An output layer tied to the embeddings is one of them.
    tied = torch.nn.Sequential(torch.nn.Embedding(6, 6), torch.nn.Linear(6, 6, bias=False))
    tied[1].weight = tied[0].weight
    (only,) = Muon(tied, lr=0.5, adamw_lr=0.25).param_groups
    assert len(only["params"]) == 1 and only["lr"] == 0.25 and "betas" in only


def test_a_step_of_a_matrix_is_orthogonal_and_of_the_size_of_adamw(model: Small) -> None:
    before = model.first.weight.detach().clone()
    learn(model, Muon(model, lr=0.01, weight_decay=0.0), 1)
    step = model.first.weight.detach() - before
    # Singular values nearly alike (Newton-Schulz: 0.7 to 1.2 of their size), scaled by 0.2 sqrt(max(rows, columns)).
    values = torch.linalg.svdvals(step) / (0.2 * 0.01 * 6 ** 0.5)
    assert values.min() > 0.6 and values.max() < 1.3


def test_it_learns_and_leaves_what_is_frozen(model: Small) -> None:
    frozen = copy.deepcopy(model.frozen.state_dict())
    assert learn(model, Muon(model, lr=0.1, weight_decay=0.0), 300) < 0.05
    assert all(torch.equal(frozen[k], v) for k, v in model.frozen.state_dict().items())


def test_a_scheduler_reaches_both_groups_also_after_resumption(model: Small) -> None:
    def pair(of: Small) -> tuple:
        optimizer = Muon(of, lr=0.01)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.02, 0.01], 20, cycle_momentum=False)

    def go_on(of: Small, optimizer: Muon, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> None:
        for _ in range(steps):
            learn(of, optimizer, 1)
            scheduler.step()

    optimizer, scheduler = pair(model)
    go_on(model, optimizer, scheduler, 5)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    go_on(model, optimizer, scheduler, 5)
    other = Small()
    resumed, its_scheduler = pair(other)
    for part, state in zip((other, resumed, its_scheduler), kept):
        part.load_state_dict(state)
    go_on(other, resumed, its_scheduler, 5)
    assert [g["lr"] for g in resumed.param_groups] == [g["lr"] for g in optimizer.param_groups]
    assert resumed.param_groups[0]["lr"] == pytest.approx(2 * resumed.param_groups[1]["lr"])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)
