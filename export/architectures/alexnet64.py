"""An AlexNet for 64 × 64 pictures, small enough to train on two processor cores.

After A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", 2012. What differs from the paper, and why:

- input 64 × 64 instead of 224 × 224: the pictures of Tiny ImageNet are that size;
- the first filters are 5 × 5 with stride 2, not 11 × 11 with stride 4: the same share of the
  sharpness is lost, on a picture a third as wide;
- six convolutions (64, 128, 192, 256, 320, 384), all further ones 3 × 3, instead of five: two small
  filters see as far as a large one and cost less;
- batch normalisation (Ioffe and Szegedy, 2015) after every hidden layer, in place of local response
  normalisation: trains at ten times the rate;
- one tower: one device is enough;
- one hidden fully connected layer of 384 instead of two of 4,096: these held 58 of the paper's
  60 million parameters, and 100,000 pictures can't feed them;
- dropout 0.3 instead of 0.5: batch normalisation regularises already; with 0.1 the network began to learn pictures by heart;
- 200 classes instead of 1,000.

The overlapping 3 × 3 max pooling with stride 2, ReLU, dropout before the fully connected layers and
the absence of shortcuts are the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.architectures import Architecture, register


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    # No bias: the normalisation that follows has its own.
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def _pool() -> nn.Module:
    return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


class AlexNet64(nn.Module):
    """Six convolutions, two fully connected layers; 5.0 M parameters, 370 M multiply-adds at 64 × 64."""

    def __init__(self, classes: int = 200) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 64, kernel=5, stride=2),  # 64 → 32
            *_convolution(64, 128, kernel=3),
            _pool(),  # 32 → 16
            *_convolution(128, 192, kernel=3),
            *_convolution(192, 256, kernel=3),
            _pool(),  # 16 → 8
            *_convolution(256, 320, kernel=3),
            *_convolution(320, 384, kernel=3),
            _pool(),  # 8 → 4
        )
        # Does nothing at 64 × 64; lets smaller pictures through while training begins with them, and larger ones later.
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.classifier = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(384 * 4 * 4, 384, bias=False),
            nn.BatchNorm1d(384),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(384, classes),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, 64, 64) normalised float32 → (N, classes) logits; 32 to 64 pixels while training."""
        maps = self.avgpool(self.features(pixels))  # (N, 384, 4, 4)
        logits: Tensor = self.classifier(torch.flatten(maps, 1))
        return logits


register(Architecture("alexnet64", AlexNet64, side=64, resize=64, classes=200))
