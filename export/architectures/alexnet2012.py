"""AlexNet as it was in 2012: two towers, local response normalisation, overlapping pooling.

Source: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
NeurIPS 2012. Convolutions 2, 4 and 5 see only the half of the maps that lay on their own GPU: two groups. The order
is convolution, ReLU, normalisation, pooling. The input is 227 × 227: the paper says 224, but its 55 × 55 maps of
11 × 11 filters at stride 4 need 227.

Two designs, the same layers and keys (`conv1.weight` … `fc8.bias`, as in Caffe's files), because two formulas of
the normalisation are in use, and weights of one give wrong answers in the other:

- `alexnet2012`, as printed: a / (2 + 1e-4 · Σ a²)^0.75 over 5 neighbouring maps; red first, proportions kept.
- `alexnet2012-caffe`, as the weights that everybody has were trained (`bvlc_alexnet`): a / (1 + 1e-4 / 5 · Σ a²)^0.75;
  blue first, squeezed to 256 × 256.

Both take pixels on the scale of 0-255 minus a mean a channel: that of Caffe's `ilsvrc_2012_mean`. The paper and Caffe's
training subtract a whole mean picture, Caffe's own classifiers its three means.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.architectures import Architecture, register

NEIGHBOURS = 5  # maps that a value is normalised over, itself in the middle
MEAN = (122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255)  # red, green, blue
STD = (1 / 255, 1 / 255, 1 / 255)  # only the mean is taken away


class AlexNet2012(nn.Sequential):
    """Five convolutions, three fully connected layers; 60,965,224 parameters at 1,000 classes.

    (N, 3, 227, 227) float32 in, 0-255 minus the mean; logits (N, classes) out.
    """

    def __init__(self, classes: int = 1000, alpha: float = 1e-4 * NEIGHBOURS, k: float = 2.0) -> None:
        """Layers with the paper's initial weights.

        Args:
            classes: number of outputs.
            alpha: of the normalisation; divided by `NEIGHBOURS`, as Caffe, PyTorch and ONNX do and the paper does not.
            k: of the normalisation.
        """
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(3, 96, kernel_size=11, stride=4),  # 227 → 55
            "relu1": nn.ReLU(inplace=True),
            "norm1": LocalResponseNorm(alpha, k),
            "pool1": nn.MaxPool2d(kernel_size=3, stride=2),  # 55 → 27
            "conv2": nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=2),
            "relu2": nn.ReLU(inplace=True),
            "norm2": LocalResponseNorm(alpha, k),
            "pool2": nn.MaxPool2d(kernel_size=3, stride=2),  # 27 → 13
            "conv3": nn.Conv2d(256, 384, kernel_size=3, padding=1),
            "relu3": nn.ReLU(inplace=True),
            "conv4": nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=2),
            "relu4": nn.ReLU(inplace=True),
            "conv5": nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=2),
            "relu5": nn.ReLU(inplace=True),
            "pool5": nn.MaxPool2d(kernel_size=3, stride=2),  # 13 → 6
            "flat": nn.Flatten(),
            "fc6": nn.Linear(256 * 6 * 6, 4096),
            "relu6": nn.ReLU(inplace=True),
            "drop6": nn.Dropout(0.5),
            "fc7": nn.Linear(4096, 4096),
            "relu7": nn.ReLU(inplace=True),
            "drop7": nn.Dropout(0.5),
            "fc8": nn.Linear(4096, classes),
        }
        super().__init__(OrderedDict(layers))
        for name, layer in layers.items():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert layer.bias is not None
                nn.init.normal_(layer.weight, 0, 0.01)
                # Positive at first, so that their ReLUs have something to learn from (section 5 of the paper).
                nn.init.constant_(layer.bias, 0 if name in ("conv1", "conv3", "fc8") else 1)


class LocalResponseNorm(nn.Module):
    """a / (k + alpha / 5 · Σ a²)^0.75, the sum over five neighbouring maps."""

    def __init__(self, alpha: float, k: float) -> None:
        super().__init__()
        self.alpha, self.k = alpha, k

    def forward(self, maps: Tensor) -> Tensor:
        """(N, channels, height, width), the same out."""
        if torch.onnx.is_in_onnx_export():
            found: Tensor = _Exported.apply(maps, self.alpha, self.k)  # type: ignore[no-untyped-call]
            return found
        return F.local_response_norm(maps, NEIGHBOURS, self.alpha, 0.75, self.k)


class _Exported(torch.autograd.Function):
    """Becomes the one LRN node that ONNX has for it; left to itself, PyTorch's exporter writes ten nodes."""

    @staticmethod
    def forward(_: Any, maps: Tensor, alpha: float, k: float) -> Tensor:
        return F.local_response_norm(maps, NEIGHBOURS, alpha, 0.75, k)

    @staticmethod
    def symbolic(graph: Any, maps: Any, alpha: float, k: float) -> Any:
        found = graph.op("LRN", maps, alpha_f=alpha, beta_f=0.75, bias_f=k, size_i=NEIGHBOURS)
        found.setType(maps.type())
        return found


_design = partial(Architecture, side=227, resize=256, classes=1000, mean=MEAN, std=STD)
register(_design("alexnet2012", AlexNet2012))
register(_design("alexnet2012-caffe", partial(AlexNet2012, alpha=1e-4, k=1.0), bgr=True, resize_mode="exact_size"))
