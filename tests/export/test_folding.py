"""Adaptive pooling, which ONNX lacks, becomes plain pooling with the same windows."""

import pytest
import torch
from torch import nn

from export import folding


@pytest.mark.parametrize(("side", "out"), [(4, 4), (5, 4), (8, 4), (6, 6), (13, 6), ((9, 5), (3, 4)), (5, 1)])
def test_pooling_gives_the_same(side, out):
    """Whether its windows could be told or not."""
    height, width = side if isinstance(side, tuple) else (side, side)
    maps = torch.randn(2, 3, height, width)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(out))
    wanted = network(maps)
    folding.settle_pooling(network, maps)
    torch.testing.assert_close(network(maps), wanted)


@pytest.mark.parametrize(("side", "out", "settled"), [(5, 4, True), (8, 4, True), (13, 6, True), (7, 3, True), (7, 4, False)])
def test_windows_that_are_alike_are_settled(side, out, settled):
    """Those that overlap unevenly stay, and are the exporter's to refuse."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(out))
    folding.settle_pooling(network, torch.zeros(1, 1, side, side))
    assert isinstance(network[0], nn.AvgPool2d if settled else nn.AdaptiveAvgPool2d)
