"""Low-rank adapters (Hu et al., 2021) by peft, put on the linear layers of a part that stays as it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from espnet_mt_llm.common import UserError, from_mapping


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters: ``W x + alpha / rank B A dropout(x)``.

    Attributes:
        rank: r, the size between A and B.
        alpha: see above.
        dropout: before A.
        targets: the linear layers, as their names end; empty: those that the part suggests.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: Sequence[str] = ()


def add_lora(part: torch.nn.Module, conf: Mapping[str, Any], suggested: Sequence[str], where: str) -> None:
    """Put adapters into ``part``, in single precision; B is 0, so that nothing changes at first.

    Args:
        part: its layers get them.
        conf: fields of :class:`Lora`.
        suggested: targets where ``conf`` has none; of these, all that there are.
        where: the key of ``conf``, for messages.

    Raises:
        UserError: an unknown key, or no such layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora = from_mapping(Lora, conf, where)
    there = {target: any(f".{name}".endswith(f".{target}") for name, _ in part.named_modules())
             for target in lora.targets or suggested}
    missing = [target for target in lora.targets if not there[target]]
    targets = [target for target, found in there.items() if found]
    if missing or not targets:
        linear = sorted({name.rsplit(".", 1)[-1] for name, m in part.named_modules() if isinstance(m, torch.nn.Linear)})
        raise UserError(f"{where}: targets: there is no layer '{', '.join(missing)}'; linear layers: "
                        f"{', '.join(linear)}")
    learns = [(p, p.requires_grad) for p in part.parameters()]
    try:
        inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
                                           target_modules=targets), part)
    except (ValueError, TypeError) as e:
        raise UserError(f"{where}: peft refuses it ({e})") from None
    # What is trained is decided elsewhere, and peft freezes all but its own.
    for weight, value in learns:
        weight.requires_grad_(value)
    for name, weight in part.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.float()


def frozen_dropout(part: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the dropout of the adapters in ``part`` that are not trained."""
    for layer in part.modules():
        dropout = getattr(layer, "lora_dropout", None)
        if isinstance(dropout, torch.nn.Module) and not any(
                p.requires_grad for name, p in layer.named_parameters() if name.startswith("lora_")):
            yield from dropout.modules()
