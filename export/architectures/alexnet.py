"""AlexNet in one tower.

Source: A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
arXiv:1404.5997. Layers and state-dict keys (`features.0.weight` … `classifier.6.bias`) are those
of torchvision's `alexnet`, so published weights load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.architectures import Architecture, register


class AlexNet(nn.Module):
    """Five convolutions, three fully connected layers; 61,100,840 parameters at 1,000 classes."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, 224, 224) normalised float32 → (N, classes) logits."""
        maps = self.avgpool(self.features(pixels))  # (N, 256, 6, 6)
        logits: Tensor = self.classifier(torch.flatten(maps, 1))
        return logits


register(Architecture("alexnet", AlexNet, side=224, resize=256, classes=1000))
