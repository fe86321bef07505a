"""The interfaces of speech encoders and of speaker encoders."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import torch

from espnet_mt_llm.common import UserError, is_whole


class Encoder(torch.nn.Module, ABC):
    """What both kinds share: a part that stays as it is, and a configuration to save.

    Attributes:
        lora_targets: names of the linear layers, as module names end, that low-rank adapters may be put on.
        config: what stands for a checkpoint in the configuration of a trained model; None where nothing has to.
    """

    lora_targets: tuple[str, ...] = ()
    config: Optional[Mapping[str, Any]] = None
    _frozen: tuple[torch.nn.Module, ...] = ()

    def freeze(self, parts: Iterable[torch.nn.Module]) -> None:
        """Keep ``parts`` as they are: without gradients, and as in evaluation (no dropout) while the rest trains."""
        for part in (parts := list(parts)):
            part.requires_grad_(False)
        # Each module by itself: what is put into one later, e.g. an adapter, trains.
        self._frozen = tuple(module for part in parts for module in part.modules() if module is not self)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        """Set the mode of everything but the frozen parts."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def saved_conf(self, conf: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``conf``, the arguments of this encoder, as a trained model's config.yaml must hold them.

        An encoder that starts from a checkpoint puts what it read there in its place, so that the trained model can
        be built again without it.
        """
        if self.config is None:
            return dict(conf)
        rest = {key: value for key, value in conf.items() if key not in ("checkpoint", "allow_missing")}
        return {**rest, "config": dict(self.config)}


class SpeechEncoder(Encoder):
    """Speech ``(B, N)`` to the outputs of its layers.

    Every one takes the arguments ``layers`` and ``freeze_layers``, see :meth:`use_layers`.

    Attributes:
        output_size: D.
        num_layers: L, the number of layers that are returned.
        frame_shift: seconds between frames.
    """

    output_size: int
    num_layers: int
    frame_shift: float

    @abstractmethod
    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states ``(L, B, T, D)`` and their lengths ``(B,)``, from samples and ``lengths`` ``(B,)``."""

    def use_layers(self, layers: Optional[Sequence[int]], freeze_layers: int, inputs: Iterable[torch.nn.Module],
                   blocks: Sequence[torch.nn.Module]) -> None:
        """Set ``self.layers``, the indices of the blocks that are returned, and freeze what stays as it is.

        Args:
            layers: blocks whose outputs are returned, numbered from 1; -1 is the last (after its norm); None: all.
            freeze_layers: the input layer and this many blocks stay as they are; -1: the whole encoder.
            inputs: modules of the input layer.
            blocks: all blocks in order.

        Raises:
            UserError: no such layer.
        """
        self.layers = chosen(layers, len(blocks))
        self.num_layers = len(self.layers)
        if not is_whole(freeze_layers) or not -1 <= freeze_layers <= len(blocks):
            raise UserError(f"encoder_conf: freeze_layers {freeze_layers} is not within -1 and {len(blocks)}, the "
                            "blocks")
        if freeze_layers:
            self.freeze([self] if freeze_layers < 0 else [*inputs, *blocks[:freeze_layers]])


class SpeakerEncoder(Encoder):
    """Speech ``(B, N)`` to speaker embeddings: one for each clip, or one for each chunk of it.

    Attributes:
        embedding_size: E.
        frame_shift: seconds between frames before pooling.
        stats_size: of their statistics, 2 D: two numbers of each.
    """

    embedding_size: int
    stats_size: int
    frame_shift: float

    @abstractmethod
    def forward(self, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return embeddings ``(B, E)`` of clips, from samples ``(B, N)`` and ``lengths`` ``(B,)``."""

    @abstractmethod
    def frames(self, speech: torch.Tensor, lengths: torch.Tensor, mean_window: Optional[float] = None
               ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return frames before pooling ``(B, T', D)`` and their lengths ``(B,)``, from samples ``(B, N)``.

        Args:
            speech, lengths: see :meth:`forward`.
            mean_window: seconds around each frame over which the mean of the features is taken; None for the clip, as
                where one speaker talks. In a conversation the mean of the clip is nobody's.
        """

    @abstractmethod
    def chunks(self, speech: torch.Tensor, lengths: torch.Tensor, sizes: Sequence[float] = (0.4, 0.2, 0.1),
               raw: bool = False, mean_window: Optional[float] = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings of the chunks that each frame lies in, ``(B, T', E * len(sizes))``, and lengths ``(B,)``.

        Args:
            speech: samples ``(B, N)``.
            lengths: numbers of samples ``(B,)``; what is behind them reaches no valid frame.
            sizes: lengths of chunks in seconds; their embeddings stand side by side in a frame. A last chunk that is
                shorter is filled up with frames of the last full one.
            raw: means and standard deviations themselves instead of embeddings; the size is that of both.
            mean_window: see :meth:`frames`.
        """


def chosen(layers: Optional[Sequence[int]], count: int) -> list[int]:
    """Return the indices, from 0, of ``layers`` numbered from 1; negative numbers count from the last, None is all.

    >>> chosen([2, -1], 4)
    [1, 3]

    Raises:
        UserError: not a list, no layer, or one that is not there.
    """
    if layers is None:
        return list(range(count))
    if not isinstance(layers, (list, tuple)) or not layers:
        raise UserError(f"encoder_conf: layers is '{layers}'; give a list, e.g. [{(count + 1) // 2}, -1], or leave it "
                        "out for all")
    for layer in layers:
        if not is_whole(layer) or not 1 <= abs(layer) <= count:
            raise UserError(f"encoder_conf: layers: there is no layer '{layer}'; layers are 1 to {count}, -1 is the "
                            "last")
    return [layer - 1 if layer > 0 else count + layer for layer in layers]
