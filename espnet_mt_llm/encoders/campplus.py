"""CAM++ (Wang et al., Interspeech 2023, arXiv 2303.00332), with the weights that 3D-Speaker has released."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import nn
from torch.nn import functional as F

from espnet_mt_llm.common import UserError
from espnet_mt_llm.encoders.extractor import Extractor, halved, hide, time_mask

# Of the three dense blocks.
KERNEL, DILATIONS = 3, (1, 2, 2)
# Frames of a segment whose mean is the context of its frames: 2 s at 20 ms.
SEGMENT = 100


@dataclass(frozen=True)
class Sizes:
    """Sizes of CAM++, by default those of the released model (6.8 million weights).

    Attributes:
        num_mels: filters, a multiple of 8.
        embedding_size: E.
        head_channels: channels of the two-dimensional convolutions in front.
        init_channels: of the first layer over time.
        growth_rate: channels that a layer of a dense block adds.
        bn_size: channels inside of such a layer, times ``growth_rate``; even.
        num_layers: of the three dense blocks.
    """

    num_mels: int = 80
    embedding_size: int = 192
    head_channels: int = 32
    init_channels: int = 128
    growth_rate: int = 32
    bn_size: int = 4
    num_layers: Sequence[int] = (12, 24, 16)


class CAMPPlus(Extractor):
    """A residual head on features as images, then densely connected layers over time with context-aware masks.

    Frames before pooling are 20 ms apart. See :class:`~espnet_mt_llm.encoders.extractor.Extractor` for the arguments
    and :class:`Sizes` for the sizes.
    """

    name, released, sizes_class = "campplus", "campplus_cn_common.bin", Sizes
    model_id = "iic/speech_campplus_sv_zh-cn_16k-common"
    frame_shift = 0.02
    eps = 1e-12

    def _build(self) -> None:
        sizes = self.sizes
        if sizes.num_mels % 8 or sizes.num_mels <= 0:
            raise UserError(f"campplus: num_mels {sizes.num_mels} is no multiple of 8")
        if len(sizes.num_layers) != len(DILATIONS):
            raise UserError(f"campplus: num_layers {list(sizes.num_layers)}; give three numbers, e.g. [12, 24, 16]")
        self.head = Head(sizes.head_channels, sizes.num_mels)
        channels = sizes.init_channels
        layers: list[tuple[str, nn.Module]] = [
            ("tdnn", Layer(self.head.output_size, channels, 5, stride=2)),
        ]
        for i, (count, dilation) in enumerate(zip(sizes.num_layers, DILATIONS), 1):
            layers.append((f"block{i}", DenseBlock(count, channels, sizes.growth_rate,
                                                   sizes.bn_size * sizes.growth_rate, dilation)))
            channels += count * sizes.growth_rate
            layers.append((f"transit{i}", Transit(channels, channels // 2)))
            channels //= 2
        layers += [("out_nonlinear", normalised_relu(channels)), ("dense", Dense(2 * channels, sizes.embedding_size))]
        self.xvector = nn.ModuleDict(OrderedDict(layers))
        self.stats_size = 2 * channels
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _network(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = self.head(features.transpose(1, 2).unsqueeze(1), lengths)
        frames = self.xvector["tdnn"](hide(frames, time_mask(lengths, frames)))
        lengths = halved(lengths)
        mask = time_mask(lengths, frames)
        for i in range(1, len(DILATIONS) + 1):
            frames = self.xvector[f"transit{i}"](self.xvector[f"block{i}"](frames, mask))
        return self.xvector["out_nonlinear"](frames).transpose(1, 2), lengths

    def _dense(self, statistics: torch.Tensor) -> torch.Tensor:
        return self.xvector["dense"](statistics)


def normalised_relu(channels: int) -> nn.Sequential:
    """Return batch normalisation and ReLU under the names of the checkpoint."""
    return nn.Sequential(OrderedDict([("batchnorm", nn.BatchNorm1d(channels)), ("relu", nn.ReLU(inplace=True))]))


class ResidualBlock(nn.Module):
    """Two convolutions on ``(B, C, F, T)`` beside a shortcut; ``stride`` is that of the frequencies."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential() if stride == 1 else nn.Sequential(
            nn.Conv2d(channels, channels, 1, stride=(stride, 1), bias=False), nn.BatchNorm2d(channels))

    def forward(self, image: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        """Return ``(B, C, F / stride, T)``."""
        out = F.relu(self.bn1(self.conv1(hide(image, mask))))
        return F.relu(self.bn2(self.conv2(hide(out, mask))) + self.shortcut(image))


class Head(nn.Module):
    """Features as an image ``(B, 1, F, T)`` to ``(B, C * F / 8, T)``."""

    def __init__(self, channels: int, num_mels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = nn.ModuleList([ResidualBlock(channels, 2), ResidualBlock(channels, 1)])
        self.layer2 = nn.ModuleList([ResidualBlock(channels, 2), ResidualBlock(channels, 1)])
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.output_size = channels * (num_mels // 8)

    def forward(self, image: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return ``(B, C * F / 8, T)``; the image is zero behind ``lengths`` ``(B,)``."""
        mask = time_mask(lengths, image)
        out = F.relu(self.bn1(self.conv1(image)))
        for block in (*self.layer1, *self.layer2):
            out = block(out, mask)
        return F.relu(self.bn2(self.conv2(hide(out, mask)))).flatten(1, 2)


class Layer(nn.Module):
    """Convolution over time ``(B, C, T)``, batch normalisation, ReLU."""

    def __init__(self, input_size: int, output_size: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(input_size, output_size, kernel, stride, padding=kernel // 2, bias=False)
        self.nonlinear = normalised_relu(output_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return ``(B, C', ceil(T / stride))``."""
        return self.nonlinear(self.linear(frames))


class Transit(nn.Module):
    """Batch normalisation, ReLU, and fewer channels."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.nonlinear = normalised_relu(input_size)
        self.linear = nn.Conv1d(input_size, output_size, 1, bias=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return ``(B, C', T)``."""
        return self.linear(self.nonlinear(frames))


class Dense(nn.Module):
    """Statistics ``(M, 2 D)`` to embeddings ``(M, E)``; the normalisation has no weights of its own."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(input_size, output_size, 1, bias=False)
        self.nonlinear = nn.Sequential(OrderedDict([("batchnorm", nn.BatchNorm1d(output_size, affine=False))]))

    def forward(self, statistics: torch.Tensor) -> torch.Tensor:
        """Return ``(M, E)``."""
        return self.nonlinear(self.linear(statistics.unsqueeze(-1)).squeeze(-1))


class DenseBlock(nn.ModuleDict):
    """Layers each of which adds ``growth`` channels to all that the ones before it have made."""

    def __init__(self, count: int, channels: int, growth: int, inner: int, dilation: int) -> None:
        super().__init__({f"tdnnd{i + 1}": DenseLayer(channels + i * growth, growth, inner, dilation)
                          for i in range(count)})

    def forward(self, frames: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        """Return ``(B, C + count * growth, T)``."""
        for layer in self.values():
            frames = torch.cat([frames, layer(frames, mask)], 1)
        return frames


class DenseLayer(nn.Module):
    """A layer of a dense block: fewer channels, then a masked convolution."""

    def __init__(self, input_size: int, output_size: int, inner: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = normalised_relu(input_size)
        self.linear1 = nn.Conv1d(input_size, inner, 1, bias=False)
        self.nonlinear2 = normalised_relu(inner)
        self.cam_layer = ContextMask(inner, output_size, dilation)

    def forward(self, frames: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        """Return ``(B, C', T)``."""
        return self.cam_layer(hide(self.nonlinear2(self.linear1(self.nonlinear1(frames))), mask), mask)


class ContextMask(nn.Module):
    """A convolution whose channels are weighted by what the clip and the segment around say.

    ``y = conv(x) * sigmoid(W2 relu(W1 (mean over the clip + mean over the segment)))``.
    """

    def __init__(self, input_size: int, output_size: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(input_size, output_size, KERNEL, padding=KERNEL // 2 * dilation,
                                      dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(input_size, input_size // 2, 1)
        self.linear2 = nn.Conv1d(input_size // 2, output_size, 1)

    def forward(self, frames: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        """Return ``(B, C', T)`` from ``(B, C, T)``, zero where ``mask`` is."""
        time = frames.size(-1)
        # Pooled before the layers, each segment once: they are the same for all frames of one.
        context = clip_mean(frames, mask) + segment_means(frames, mask)
        weight = torch.sigmoid(self.linear2(F.relu(self.linear1(context))))
        return self.linear_local(frames) * weight.repeat_interleave(SEGMENT, -1)[..., :time]


def clip_mean(frames: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
    """Return ``(B, C, 1)``, the mean of frames that are zero where ``mask`` ``(B, 1, T)`` is."""
    return frames.mean(-1, keepdim=True) if mask is None else frames.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)


def segment_means(frames: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
    """Return ``(B, C, ceil(T / SEGMENT))``, the mean of each segment; the last one may be shorter."""
    means = F.avg_pool1d(frames, SEGMENT, SEGMENT, ceil_mode=True)
    if mask is None:
        return means
    # The share of real frames in a segment; of one that is all padding nothing is used.
    share = F.avg_pool1d(mask, SEGMENT, SEGMENT, ceil_mode=True)
    return means / share.clamp(min=1 / SEGMENT)
