"""Two trainings of one network, one begun where the other ended, become one: their weights are averaged.

The average lies where the loss is flat, and is often better than both. The scale of a filter that normalisation follows
is free, and differs from training to training: it is brought into line first, and the normalisation's statistics are
taken anew afterwards.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models", 2022; Izmailov et al., "Averaging Weights Leads to
Wider Optima and Better Generalization", 2018 (for the statistics).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export import listing, published
from export.architectures import find
from export.folding import NORMALISATION, normalised
from export.initial import begin_with
from export.refusal import Refusal
from service.recipe import Input, Preprocessing, Recipe

PICTURES = 2000
BATCH = 250


def run(architecture: str, files: tuple[Path, Path], share: float, source: Path, side: int, output: Path) -> None:
    """Average two files of weights into `output`, a state dict.

    Args:
        files: checkpoints, or models that `convert` made.
        share: of the second one, 0 to 1.
        source: data set that they were trained on, for the statistics of the normalisation.
        side: height and width in pixels that these are taken at.
    Raises:
        Refusal: one line; nothing has been written.
    """
    if not 0 <= share <= 1:
        raise Refusal(f"share is {share:g}; expected a number from 0 to 1")
    design, listed = find(architecture), listing.read(source)
    pixels = _pixels(listed, design.side)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (design.mean, design.std))
    pixels = (pixels / 255 - mean) / std
    networks = [design.build(len(listed.labels)) for _ in files]
    for network, file in zip(networks, files, strict=True):
        begin_with(network, file, len(listed.labels), pixels[: BATCH * 4])
    first, second = networks
    average(first, second, share)
    settle(first, F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False))
    part = output.with_suffix(".part")
    torch.save({name: value.contiguous() for name, value in first.state_dict().items()}, part)
    part.replace(output)


@torch.no_grad()
def average(first: nn.Module, second: nn.Module, share: float) -> None:
    """Move the weights of `first` towards those of `second`, by `share` of the way; in place."""
    for layer, _ in normalised(first):
        mine, theirs = (network.get_parameter(f"{layer}.weight") for network in (first, second))
        mine.mul_(theirs.norm() / mine.norm())
    other = second.state_dict()
    for name, value in first.state_dict().items():
        if value.is_floating_point():
            value.lerp_(other[name], share)


@torch.no_grad()
def settle(network: nn.Module, pixels: Tensor) -> None:
    """Take the statistics of all normalisation anew; in place.

    Args:
        pixels: (N, 3, side, side) float32, normalised.
    """
    for module in network.modules():
        if isinstance(module, NORMALISATION):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over all batches
            module.train()
        elif not list(module.children()):
            module.eval()
    for start in range(0, len(pixels), BATCH):
        network(pixels[start : start + BATCH])
    network.eval()


def _pixels(listed: listing.Listing, side: int) -> Tensor:
    """(N, 3, side, side) float32, 0 to 255: training pictures, chosen by the SHA-256 of their names."""
    kept = listed.kept_back()
    entries = [entry for entry, out in zip(listed.train, kept, strict=True) if not out]
    entries.sort(key=lambda entry: hashlib.sha256(entry.name.encode()).hexdigest())
    plain = Recipe(1, "average", Input(side, side), Preprocessing(side, (0, 0, 0), (1, 1, 1)))
    found = published.decode(listed, entries[:PICTURES], plain)
    return torch.from_numpy(np.ascontiguousarray(found.transpose(0, 3, 1, 2))).float()
