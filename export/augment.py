"""Random crops, flips and sizes for training, a whole batch at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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
