"""Crops for training are cut out of the picture, not invented."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from export.augment import compressed, cutmix, random_resized_crop


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


def test_cutmix_says_how_much_of_which_picture_was_pasted():
    """A wrong share would teach wrong probabilities."""
    colours = torch.arange(20.0)
    pictures = colours.view(20, 1, 1, 1).expand(20, 3, 32, 48).clone()
    shares = []
    for seed in range(60):
        mixed, others, share = cutmix(pictures, torch.arange(20), torch.Generator().manual_seed(seed))
        foreign = mixed != pictures
        for row in range(20):
            inside = mixed[row][foreign[row]]
            assert bool((inside == colours[others[row]]).all())  # nothing else than the picture that the label names
            if others[row] != row:
                assert float(foreign[row].float().mean()) == pytest.approx(share, abs=1e-6)
        shares.append(share)
    assert 0.2 < float(np.mean(shares)) < 0.5
    assert max(shares) > 0.6
    assert bool((pictures == colours.view(20, 1, 1, 1)).all()), "the pictures themselves stay"


def test_some_pictures_lose_what_jpeg_loses_and_the_others_nothing():
    """Who posts pictures compresses them; the share is the one that was asked for."""
    pictures = np.random.default_rng(1).integers(0, 256, (400, 16, 16, 3), np.uint8)
    with ThreadPoolExecutor(2) as pool:
        found = compressed(pictures, 0.3, torch.Generator().manual_seed(1), pool)
        again = compressed(pictures, 0.3, torch.Generator().manual_seed(1), pool)
        untouched = compressed(pictures, 0.0, torch.Generator().manual_seed(1), pool)
    changed = (found != pictures).any((1, 2, 3))
    assert 0.2 < changed.mean() < 0.4
    assert found.shape == pictures.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(untouched, pictures)
