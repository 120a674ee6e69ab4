"""Crops for training are cut out of the picture, not invented."""

import pytest
import torch

from export.augment import random_resized_crop


@pytest.mark.parametrize("size", [32, 48, 64])
def test_a_crop_of_a_ramp_stays_a_ramp(size):
    """Brightness that rises from left to right rises or, mirrored, falls in every crop, within its range."""
    ramp = torch.linspace(0, 1, 64).repeat(200, 3, 64, 1)  # (200, 3, 64, 64), bright on the right
    crops = random_resized_crop(ramp, size, torch.Generator().manual_seed(0))
    assert crops.shape == (200, 3, size, size)
    slopes = crops[:, 0, size // 2, 3:-3].diff(dim=1)
    rises, falls = (slopes > 0).all(1), (slopes < 0).all(1)
    assert bool((rises | falls).all())
    assert 60 < int(rises.sum()) < 140
    assert float(crops.min()) >= 0
    assert float(crops.max()) <= 1


def test_a_crop_covers_at_least_the_least_area():
    """Boxes much smaller than that show no longer what the label says."""
    rows = torch.linspace(0, 1, 64).repeat(500, 1, 64, 1).transpose(2, 3)
    columns = torch.linspace(0, 1, 64).repeat(500, 1, 64, 1)
    pictures = torch.cat([rows, columns, columns], 1)
    crops = random_resized_crop(pictures, 64, torch.Generator().manual_seed(1), area=(0.4, 1.0))
    heights = crops[:, 0].amax((1, 2)) - crops[:, 0].amin((1, 2))
    widths = crops[:, 1].amax((1, 2)) - crops[:, 1].amin((1, 2))
    shares = heights * widths
    assert float(shares.min()) > 0.36  # half a pixel is lost at each edge
    assert float(shares.max()) > 0.9


def test_the_same_seed_gives_the_same_crops():
    """A resumed run sees what an unbroken one would."""
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    one, two = (random_resized_crop(pictures, 32, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
