"""Weights of two trainings, averaged."""

import copy

import pytest
import torch

from export import average
from export.refusal import Refusal


@pytest.fixture
def pixels():
    return torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_scale_of_normalised_filters_does_not_matter(network, pixels):
    """Three times as long filters before a normalisation are the same network; so is its average with itself."""
    average.settle(network, pixels)
    same = copy.deepcopy(network)
    for layer in (same.features[0], same.classifier[1]):
        layer.weight.data *= 3
    average.settle(same, pixels)
    torch.testing.assert_close(same(pixels), network(pixels), rtol=1e-3, atol=1e-4)
    mixed = copy.deepcopy(network)
    average.average(mixed, same, 0.3)
    average.settle(mixed, pixels)
    torch.testing.assert_close(mixed(pixels), network(pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_of_one_is_that_one(network, pixels, share):
    """The ends of the way are the two networks."""
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    for each in (network, other):
        average.settle(each, pixels)
    wanted = (network, other)[int(share)](pixels)
    mixed = copy.deepcopy(network)
    average.average(mixed, other, share)
    average.settle(mixed, pixels)
    torch.testing.assert_close(mixed(pixels), wanted, rtol=1e-3, atol=1e-3)


def test_a_share_beyond_both_is_refused(tmp_path):
    """Minus a network is no average."""
    with pytest.raises(Refusal, match=r"share is 1.5; expected a number from 0 to 1"):
        average.run("tiny", (tmp_path, tmp_path), 1.5, tmp_path, 16, tmp_path / "weights.pth")
