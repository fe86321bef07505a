"""Groups of parameters with learning rates of their own."""

import pytest
import torch

from espnet_mt_llm.common import UserError
from espnet_mt_llm.train.optimizers import rate_groups


def model() -> torch.nn.Module:
    parts = {name: torch.nn.Linear(2, 2) for name in ("encoder", "heads", "decoder")}
    parts["encoder"].bias.requires_grad = False
    return torch.nn.ModuleDict(parts)


def test_every_parameter_that_learns_is_in_one_group() -> None:
    parts = model()
    groups = [group["params"] for group in rate_groups(parts, ["heads", "encoder"])]
    assert [[id(p) for p in group] for group in groups] == [
        [id(p) for p in parts["heads"].parameters()], [id(parts["encoder"].weight)],
        [id(p) for p in parts["decoder"].parameters()]]


@pytest.mark.parametrize("parts, message", [
    (["header"], "rate_groups: nothing of 'header' learns; did you mean 'heads'"),
    (["encoder.weight"], "nothing of 'encoder.weight' learns"),
    (["encoder", "heads", "decoder"], "rate_groups: encoder, heads, decoder are all that learns; leave one of them out"),
])
def test_groups_that_cannot_be(parts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rate_groups(model(), parts)
