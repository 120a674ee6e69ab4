"""EfficientNet-Lite0: inverted bottlenecks without squeeze-and-excitation, 75.1 % top-1 on ImageNet by its authors' count.

Source: M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019 (B0, table 1),
and TensorFlow's description of the Lite variant (tensorflow/tpu, models/official/efficientnet/lite): no
squeeze-and-excitation, ReLU6 in place of swish, stem and head not scaled, pixels as (x - 127) / 128. State-dict keys
(`_conv_stem.weight` … `_fc.bias`) are those of the package `efficientnet-lite-pytorch`, so its weights load as they are.

Left out: stochastic depth, which acts in training only. TensorFlow evaluates with bicubic interpolation, which is an
option of `convert` and not the network's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.architectures import Architecture, register

# (blocks, kernel, stride of the first, expansion, channels): table 1 of the paper, without its stem and head.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
STEM, HEAD = 32, 1280  # channels


class EfficientNetLite0(nn.Module):
    """Sixteen blocks between a stem and a head; 4,652,008 parameters at 1,000 classes."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM, kernel=3, stride=2)
        self._bn0 = _norm(STEM)
        blocks: list[nn.Module] = []
        channels = STEM
        for repeats, kernel, stride, expansion, wanted in STAGES:
            for number in range(repeats):
                blocks.append(Block(channels, wanted, kernel, stride if number == 0 else 1, expansion))
                channels = wanted
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConv2d(channels, HEAD)
        self._bn1 = _norm(HEAD)
        self._relu = nn.ReLU6(inplace=True)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(HEAD, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, 224, 224) normalised float32 → (N, classes) logits."""
        maps = self._relu(self._bn0(self._conv_stem(pixels)))  # (N, 32, 112, 112)
        maps = self._blocks(maps)  # (N, 320, 7, 7)
        maps = self._avg_pooling(self._relu(self._bn1(self._conv_head(maps))))  # (N, 1280, 1, 1)
        logits: Tensor = self._fc(self._dropout(torch.flatten(maps, 1)))
        return logits


class Block(nn.Module):
    """Widen, convolve each channel alone, narrow; added to its input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv = SameConv2d(inputs, wide)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv = SameConv2d(wide, outputs)
        self._bn2 = _norm(outputs)
        self._relu = nn.ReLU6(inplace=True)
        self.widens, self.adds = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        """(N, inputs, height, width) → (N, outputs, ⌈height / stride⌉, ⌈width / stride⌉)."""
        wide = self._relu(self._bn0(self._expand_conv(maps))) if self.widens else maps
        wide = self._relu(self._bn1(self._depthwise_conv(wide)))
        narrow: Tensor = self._bn2(self._project_conv(wide))
        return narrow + maps if self.adds else narrow


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "same": what can't be halved goes below and to the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    # Not `forward`: this stays a convolution like any other for who folds batch normalisation into it.
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        top, bottom = self._padding(int(input.shape[2]))
        left, right = self._padding(int(input.shape[3]))
        if torch.onnx.is_in_onnx_export():
            pads, stride = [top, left, bottom, right], list(self.stride)
            found: Tensor = _Exported.apply(input, weight, bias, pads, stride, self.groups)  # type: ignore[no-untyped-call]
            return found
        return F.conv2d(F.pad(input, (left, right, top, bottom)), weight, bias, self.stride, groups=self.groups)

    def _padding(self, side: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)  # for ⌈side / stride⌉ outputs
        return missing // 2, missing - missing // 2


class _Exported(torch.autograd.Function):
    """Becomes one Conv node: ONNX's takes uneven padding, PyTorch's doesn't and would leave a Pad node before it."""

    @staticmethod
    def forward(_: Any, maps: Tensor, weight: Tensor, bias: Tensor | None,
                pads: list[int], stride: list[int], groups: int) -> Tensor:  # fmt: skip
        top, left, bottom, right = pads
        return F.conv2d(F.pad(maps, (left, right, top, bottom)), weight, bias, stride, groups=groups)

    @staticmethod
    def symbolic(graph: Any, maps: Any, weight: Any, bias: Any, pads: list[int], stride: list[int], groups: int) -> Any:
        inputs = (maps, weight) if bias is None or bias.node().mustBeNone() else (maps, weight, bias)
        return graph.op("Conv", *inputs, pads_i=pads, strides_i=stride, group_i=groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # TensorFlow counts momentum the other way: 0.99


register(Architecture(
    "efficientnet-lite0", EfficientNetLite0, side=224, resize=256, classes=1000,
    mean=(127 / 255, 127 / 255, 127 / 255), std=(128 / 255, 128 / 255, 128 / 255),
))  # fmt: skip
