"""Augmentation of whole batches: what differs between scanners and positioning, not between findings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Half-widths at strength 1: degrees, log-scale, log-aspect, shift in image widths, log-gamma,
# log-contrast, brightness, sharpening (negative blurs), noise s.d., share of images with a border painted over.
ROTATION, SCALE, ASPECT, SHIFT = 15.0, 0.18, 0.12, 0.06
GAMMA, CONTRAST, BRIGHTNESS, SHARPNESS, NOISE = 0.6, 0.3, 0.1, 1.0, 0.04
BORDER_SHARE, BORDER_WIDTH = 0.3, 0.12


@dataclass(frozen=True)
class Augmentation:
    """Random positioning, exposure, sharpness, noise and borders; ``strength`` 0 changes nothing.

    ``flip``: mirror half of the images. Turn it off where laterality matters.
    """

    strength: float = 1.0
    flip: bool = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return augmented images; shapes (B, 1, H, W) in [0, 1] → the same.

        What is drawn comes from ``generator``, on the CPU, wherever the images are.
        """
        if self.strength <= 0 and not self.flip:
            return images
        images = self._position(images, generator)
        if self.strength > 0:
            images = self._expose(images, generator)
            images = self._paint_border(images, generator)
        return images.clamp(0, 1)

    def _uniform(self, count: int, half_width: float, generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * half_width * self.strength

    def _position(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n = len(images)
        angle = self._uniform(n, math.radians(ROTATION), generator)
        scale = self._uniform(n, SCALE, generator).exp()
        aspect = self._uniform(n, ASPECT, generator).exp()
        shift = 2 * torch.stack([self._uniform(n, SHIFT, generator) for _ in range(2)], 1)
        mirror = torch.rand(n, generator=generator) < (0.5 if self.flip else 0.0)
        sign = 1.0 - 2.0 * mirror.float()
        cos, sin = angle.cos() * scale, angle.sin() * scale
        rows = torch.stack([cos * aspect * sign, -sin, sin * sign, cos / aspect], 1).view(n, 2, 2)
        grid = F.affine_grid(torch.cat([rows, shift[..., None]], 2), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid.to(images.device), align_corners=False)

    def _expose(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n = len(images)

        def draw(half_width: float) -> Tensor:
            return self._uniform(n, half_width, generator).view(n, 1, 1, 1).to(images.device)

        images = images.clamp(0, 1) ** draw(GAMMA).exp()
        images = (images - 0.5) * draw(CONTRAST).exp() + 0.5 + draw(BRIGHTNESS)
        images = images + draw(SHARPNESS) * (images - F.avg_pool2d(images, 3, 1, 1))
        return images + draw(NOISE).abs() * torch.randn(images.shape, generator=generator).to(images.device)

    def _paint_border(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Paint one side of some images over, so that collimation and padding tell nothing of the hospital."""
        n, _, height, width = images.shape
        chosen = torch.rand(n, generator=generator) < BORDER_SHARE * self.strength
        depth = torch.rand(n, generator=generator) * BORDER_WIDTH
        side = torch.randint(0, 4, (n,), generator=generator)
        shade = torch.rand(n, generator=generator) * (torch.rand(n, generator=generator) < 0.5)
        y = (torch.arange(height) + 0.5).view(1, height, 1) / height
        x = (torch.arange(width) + 0.5).view(1, 1, width) / width
        distance = torch.stack([y + 0 * x, 1 - y + 0 * x, x + 0 * y, 1 - x + 0 * y], 1)[0]
        painted = (distance[side] < depth.view(n, 1, 1)) & chosen.view(n, 1, 1)
        return torch.where(painted[:, None].to(images.device), shade.view(n, 1, 1, 1).to(images.device), images)
