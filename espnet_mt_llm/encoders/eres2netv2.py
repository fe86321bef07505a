"""ERes2NetV2 (Chen et al., Interspeech 2024, arXiv 2406.02167), with the weights that 3D-Speaker has released."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import nn
from torch.nn import functional as F

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.extractor import Extractor, halved, hide, time_mask

# Of the attention in a fusion: its inner size is a quarter.
REDUCTION = 4


@dataclass(frozen=True)
class Sizes:
    """Sizes of ERes2NetV2, by default those of the released model (17.8 million weights).

    Attributes:
        num_mels: filters, a multiple of 8.
        embedding_size: E.
        channels: of the first stage; each following one has twice as many.
        base_width: channels of a split for 64 of its block.
        scale: splits of a block.
        expansion: channels that a block leaves, times its own.
        num_blocks: of the four stages.
    """

    num_mels: int = 80
    embedding_size: int = 192
    channels: int = 64
    base_width: int = 26
    scale: int = 2
    expansion: int = 2
    num_blocks: Sequence[int] = (3, 4, 6, 3)


class ERes2NetV2(Extractor):
    """Residual blocks on features as images, their channels in splits that see each other; two stages fused.

    Frames before pooling are 80 ms apart. See :class:`~espnet_mt_llm.encoders.extractor.Extractor` for the arguments
    and :class:`Sizes` for the sizes. The larger released model, ``pretrained_eres2netv2w24s4ep4.ckpt``, has
    ``base_width: 24, scale: 4, expansion: 4``.
    """

    name, released, sizes_class = "eres2netv2", "pretrained_eres2netv2.ckpt", Sizes
    model_id = "iic/speech_eres2netv2_sv_zh-cn_16k-common"
    frame_shift = 0.08
    eps = 1e-8

    def _build(self) -> None:
        sizes = self.sizes
        if sizes.num_mels % 8 or sizes.num_mels <= 0:
            raise UserError(f"eres2netv2: num_mels {sizes.num_mels} is no multiple of 8")
        if len(sizes.num_blocks) != 4 or min(sizes.num_blocks) < 1:
            raise UserError(f"eres2netv2: num_blocks {list(sizes.num_blocks)}; give four numbers, e.g. [3, 4, 6, 3]")
        if sizes.channels * sizes.base_width < 64:
            raise UserError(f"eres2netv2: {sizes.channels} channels with base_width {sizes.base_width} leave none for "
                            "a split; give more")
        self.conv1 = nn.Conv2d(1, sizes.channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(sizes.channels)
        inner = sizes.channels
        for i, count in enumerate(sizes.num_blocks):
            planes = sizes.channels * 2 ** i
            blocks = []
            for k in range(count):
                blocks.append(Block(inner, planes, 2 if i and not k else 1, sizes, fused=i >= 2))
                inner = planes * sizes.expansion
            self.add_module(f"layer{i + 1}", nn.ModuleList(blocks))
        self.layer3_ds = nn.Conv2d(inner // 2, inner, 3, stride=2, padding=1, bias=False)
        self.fuse34 = Fusion(inner)
        self.stats_size = 2 * inner * (sizes.num_mels // 8)
        self.seg_1 = nn.Linear(self.stats_size, sizes.embedding_size)

    def _network(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image = F.relu(self.bn1(self.conv1(features.transpose(1, 2).unsqueeze(1))))
        mask = time_mask(lengths, image)
        for block in self.layer1:
            image = block(image, mask)
        for first, *rest in (self.layer2, self.layer3, self.layer4):
            before, before_mask, lengths = image, mask, halved(lengths)
            # A convolution of stride 2 leaves a frame for every second one.
            mask = time_mask(lengths, image[..., ::2])
            image = first(image, mask)
            for block in rest:
                image = block(image, mask)
        image = self.fuse34(image, self.layer3_ds(hide(before, before_mask)))
        return image.flatten(1, 2).transpose(1, 2), lengths

    def _dense(self, statistics: torch.Tensor) -> torch.Tensor:
        return self.seg_1(statistics)


class Fusion(nn.Module):
    """Two images ``(B, C, F, T)`` into one, weighted point by point (attentional feature fusion).

    ``a = 1 + tanh(attention([x, y]))``, ``x * a + y * (2 - a)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // REDUCTION
        self.local_att = nn.Sequential(
            nn.Conv2d(2 * channels, inner, 1), nn.BatchNorm2d(inner), nn.SiLU(inplace=True),
            nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return ``(B, C, F, T)``."""
        weight = torch.tanh(self.local_att(torch.cat([first, second], 1)))
        return first * (1 + weight) + second * (1 - weight)


class Block(nn.Module):
    """A residual block whose channels are split; each split gets the output of the one before it.

    Args:
        input_size: channels that come in.
        planes: channels of the block; ``planes * expansion`` leave it.
        stride: of frequencies and time.
        sizes: of the model.
        fused: splits are joined by :class:`Fusion` instead of a sum.
    """

    def __init__(self, input_size: int, planes: int, stride: int, sizes: Sizes, fused: bool) -> None:
        super().__init__()
        self.width = planes * sizes.base_width // 64
        output_size = planes * sizes.expansion
        self.conv1 = nn.Conv2d(input_size, self.width * sizes.scale, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(self.width * sizes.scale)
        self.convs = nn.ModuleList(nn.Conv2d(self.width, self.width, 3, padding=1, bias=False)
                                   for _ in range(sizes.scale))
        self.bns = nn.ModuleList(nn.BatchNorm2d(self.width) for _ in range(sizes.scale))
        self.fuse_models = nn.ModuleList(Fusion(self.width) for _ in range(sizes.scale - 1)) if fused else None
        self.conv3 = nn.Conv2d(self.width * sizes.scale, output_size, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(output_size)
        self.shortcut = nn.Sequential() if stride == 1 and input_size == output_size else nn.Sequential(
            nn.Conv2d(input_size, output_size, 1, stride=stride, bias=False), nn.BatchNorm2d(output_size))

    def forward(self, image: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        """Return ``(B, C', F / stride, T / stride)``; ``mask`` is that of the output's frames."""
        splits = bounded_relu(self.bn1(self.conv1(image))).split(self.width, 1)
        outputs: list[torch.Tensor] = []
        for i, split in enumerate(splits):
            if outputs:
                split = outputs[-1] + split if self.fuse_models is None else self.fuse_models[i - 1](outputs[-1], split)
            outputs.append(bounded_relu(self.bns[i](self.convs[i](hide(split, mask)))))
        out = self.bn3(self.conv3(torch.cat(outputs, 1)))
        return bounded_relu(out + self.shortcut(image))


def bounded_relu(values: torch.Tensor) -> torch.Tensor:
    """Return values cut at 0 and 20."""
    return F.hardtanh(values, 0.0, 20.0)
