"""Images as bags of overlapping crops, and scores of crops folded back onto the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_bag(x: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return crops (B, N, 1, size, size) of images (B, 1, H, W), row by row, and their places (N, 4) in px.

    Places are x0, y0, x1, y1. As many crops as cover the image; what lies beyond it is 0. Raises ``ValueError`` where
    ``size`` or ``stride`` is below 1.
    """
    if size < 1 or stride < 1:
        raise ValueError(f"expected a size and a stride of at least 1; found {size} and {stride}")
    rows, columns = (max(0, -(-(side - size) // stride)) + 1 for side in x.shape[2:])
    beyond = [(n - 1) * stride + size - side for n, side in ((columns, x.shape[3]), (rows, x.shape[2]))]
    padded = F.pad(x, (0, max(0, beyond[0]), 0, max(0, beyond[1])))
    crops = padded.unfold(2, size, stride).unfold(3, size, stride)[:, :, :rows, :columns]
    corners = torch.cartesian_prod(torch.arange(rows) * stride, torch.arange(columns) * stride).flip(1)
    places = torch.cat([corners, corners + size], 1).to(x.device)
    return crops.reshape(len(x), x.shape[1], rows * columns, size, size).transpose(1, 2), places


def fold_scores(scores: Tensor, places: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return for every pixel the mean score of the crops that cover it: (B, C, H, W); 0 where none does.

    Shapes: ``scores`` (B, N, C) and ``places`` (N, 4) of ``patch_bag``; ``shape`` is (H, W). Schwab et al. 2020.
    """
    height, width = shape
    x0, y0, x1, y1 = places.clamp(min=0).unbind(1)
    x0, x1, y0, y1 = x0.clamp(max=width), x1.clamp(max=width), y0.clamp(max=height), y1.clamp(max=height)
    with_ones = torch.cat([scores.double(), scores.new_ones(len(scores), len(places), 1).double()], 2)
    # A box is four corners of its second difference; running sums put it back together.
    corners = scores.new_zeros(*with_ones.shape[::2], (height + 1) * (width + 1), dtype=torch.float64)
    for sign, x, y in ((1, x0, y0), (-1, x1, y0), (-1, x0, y1), (1, x1, y1)):
        corners.index_add_(2, y * (width + 1) + x, with_ones.transpose(1, 2), alpha=sign)
    sums = corners.unflatten(2, (height + 1, width + 1)).cumsum(2).cumsum(3)[:, :, :height, :width]
    covered = sums[:, -1:].round()
    return (sums[:, :-1] / covered.clamp(min=1)).to(scores.dtype) * (covered > 0)
