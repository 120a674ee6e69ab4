"""Small networks to export, with the labels and the files that go with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from export import architectures
from tests.export.graphs import CLASSES, SIDE, WORDS, bare_graph


class Tiny(nn.Module):
    """One of each layer that the real networks have."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(8 * 6 * 6, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, classes)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, 16, 16) → (N, classes)."""
        return self.classifier(torch.flatten(self.features(pixels), 1))


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    """Registered as `tiny` for the length of a test."""
    architectures.names()  # registers the real ones first
    monkeypatch.setattr(architectures, "_registered", dict(architectures._registered))
    return architectures.register(architectures.Architecture("tiny", Tiny, side=SIDE, resize=18, classes=CLASSES))


@pytest.fixture
def network():
    """A tiny network as after training: running statistics and all."""
    torch.manual_seed(1)
    made = Tiny()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    made.classifier[-1].weight.data *= 5
    return made.eval()


@dataclass
class Files:
    """Paths of what a conversion takes, and of where it writes."""

    weights: Path
    labels: Path
    models: Path

    @property
    def arguments(self) -> list[str]:
        """Of `convert`."""
        return [
            "--architecture",
            "tiny",
            "--weights",
            str(self.weights),
            "--labels",
            str(self.labels),
            "--output",
            str(self.models / "fish" / "1"),
        ]


@pytest.fixture
def files(tmp_path, network):
    """Weights and labels on disk; `models` doesn't exist yet."""
    made = Files(tmp_path / "weights.pth", tmp_path / "labels.json", tmp_path / "models")
    torch.save(network.state_dict(), made.weights)
    made.labels.write_text(json.dumps([{"id": wnid, "label": word} for wnid, word in WORDS]))
    return made


@pytest.fixture
def bare(tmp_path):
    """Makes a bare classifier's file: `bare(layout=…, ending=…, batch=…)`."""

    def make(**kind) -> Path:
        file = tmp_path / "bare.onnx"
        onnx.save(bare_graph(**kind), file)
        return file

    return make
