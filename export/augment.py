"""Random crops, flips, sizes, compression and mixing for training, a whole batch at a time."""

from __future__ import annotations

import io
import math
from concurrent.futures import Executor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

QUALITIES = 30, 90  # of the JPEG files that people post


def random_resized_crop(
    pictures: Tensor, size: int, generator: torch.Generator, area: tuple[float, float] = (0.4, 1.0)
) -> Tensor:
    """Cut a random box out of each picture, mirror half of them, bring all to one size.

    Args:
        pictures: (N, 3, height, width) float32.
        size: height and width of the result in pixels.
        generator: source of all randomness, on the CPU.
        area: least and greatest share of the picture that a box covers; its sides relate as 3:4 to 4:3.
    Returns:
        (N, 3, size, size) float32.
    Source: Szegedy et al., "Going deeper with convolutions", 2015; torchvision's RandomResizedCrop.
    """
    count, _, height, _ = pictures.shape
    random = torch.rand(5, count, generator=generator)
    share = area[0] + (area[1] - area[0]) * random[0]
    ratio = torch.exp((2 * random[1] - 1) * math.log(4 / 3))
    scale_x = (share * ratio).sqrt().clamp(max=1)  # half-widths on the grid's -1 … 1
    scale_y = (share / ratio).sqrt().clamp(max=1)
    shift_x = (2 * random[2] - 1) * (1 - scale_x)
    shift_y = (2 * random[3] - 1) * (1 - scale_y)
    mirror = torch.where(random[4] < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    boxes = torch.stack(
        [torch.stack([scale_x * mirror, zero, shift_x], 1), torch.stack([zero, scale_y, shift_y], 1)], 1
    )  # (N, 2, 3)
    # Bilinear sampling reads four pixels; halving a picture needs more, so sample finer and average.
    finer = max(1, round(height / size))
    grid = F.affine_grid(boxes.to(pictures.device), [count, 3, size * finer, size * finer], align_corners=False)
    sampled = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(sampled, finer) if finer > 1 else sampled


def compressed(pictures: np.ndarray, share: float, generator: torch.Generator, pool: Executor) -> np.ndarray:
    """Send some of the pictures through JPEG at a random quality, as whoever posted them may have.

    Args:
        pictures: (N, height, width, 3) uint8 RGB; left as it is.
        share: of the pictures that are compressed, on average, 0 to 1.
        generator: source of all randomness, on the CPU.
        pool: where the pictures are compressed.
    Returns:
        (N, height, width, 3) uint8 RGB.
    """
    random = torch.rand(2, len(pictures), generator=generator)
    (chosen,) = np.nonzero((random[0] < share).numpy())
    low, high = QUALITIES
    qualities = (low + (high - low) * random[1]).round().int().tolist()
    found = np.array(pictures)
    for row, picture in zip(chosen, pool.map(lambda row: _through_jpeg(found[row], qualities[row]), chosen), strict=True):
        found[row] = picture
    return found


def _through_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def cutmix(pictures: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Paste one box out of other pictures of the batch over each picture; all boxes lie at the same place.

    Args:
        pictures: (N, 3, height, width) float32; left as it is.
        labels: (N,) int64.
        generator: source of all randomness, on the CPU.
    Returns:
        (N, 3, height, width) float32; the labels of what was pasted, (N,) int64; the share of it, 0 to 1, uniform
        before the box is cut off at the edge.
    Source: Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features", 2019.
    """
    count, _, height, width = pictures.shape
    side, y, x = torch.rand(3, generator=generator).tolist()
    side = side**0.5 / 2  # half of the box's side, as a share
    top, bottom = round(max(0, y - side) * height), round(min(1, y + side) * height)
    left, right = round(max(0, x - side) * width), round(min(1, x + side) * width)
    others = torch.randperm(count, generator=generator).to(pictures.device)
    mixed = pictures.clone()
    mixed[:, :, top:bottom, left:right] = pictures[others, :, top:bottom, left:right]
    return mixed, labels[others], (bottom - top) * (right - left) / (height * width)
