"""What usually surrounds a finding, taken out of what an image is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import MissingExtra
from hilum.models.cells import cell_cross_entropy, cell_probabilities
from hilum.models.neck.base import Neck


class Conta(Neck):
    """Back-door adjustment by a set of confounders (context adjustment, CONTA, Zhang et al. 2020).

    A segmentation network behind the trunk (MONAI's atrous pyramid of ``width`` channels a branch, a 1×1 convolution;
    the extra ``monai``), whose gradient does not reach the trunk, though one clipping is of both, learns from the
    classifier's own map: in an image that shows a finding, cells of at least ``foreground`` times the highest are the
    finding, those of at most ``background`` times it are not, and the others are left out; without the finding no cell
    is. Its masks are the pseudo-masks of the paper's loop, and an output of their own.

    Confounder c_i is the mean mask of the images that show finding i, on ``grid`` × grid cells, P(c_i) = 1 / n of n
    findings. The head reads F + W [F, M] with M_i = α_i c_i / n, α = softmax_i of (W₁ X)ᵀ (W₂ c_i) / √n, X the
    image's own masks; W begins at 0, as do the confounders. The rounds are cut into ``iterations`` parts: at the
    beginning of each but the first, every site that trains sums the masks of its training images up anew under the
    weights that it was sent, and all of them together are the confounders of the rounds that follow. What leaves a site
    is a sum and a count of each finding, none of fewer than ``least`` patients.

    In place of the paper's random walk that widens the maps, the network's own smoothness. By design X sees the
    whole image, so a finding anywhere changes every cell a little. Raises ``ValueError``, ``MissingExtra``.
    """

    sums = ("mask_sums", "mask_counts")
    least = 10  # patients behind a mean mask that leaves a site
    segments = True
    mask_sums: Tensor
    mask_counts: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        findings: int,
        iterations: int = 3,
        grid: int = 14,
        width: int = 32,
        foreground: float = 0.3,
        background: float = 0.05,
        weight: float = 1.0,
    ) -> None:
        super().__init__(channels, findings)
        for name, value in {"iterations": iterations, "grid": grid, "width": width}.items():
            if value < 1:
                raise ValueError(f"expected {name} of at least 1; found {value}")
        if not 0 <= background <= foreground <= 1:
            raise ValueError(f"expected 0 ≤ background ≤ foreground ≤ 1; found {background} and {foreground}")
        if weight < 0:
            raise ValueError(f"expected a weight of at least 0; found {weight}")
        try:
            from monai.networks.blocks.aspp import SimpleASPP
        except ImportError:
            raise MissingExtra("monai", "monai") from None
        self.iterations, self.grid, self.weight = iterations, grid, weight
        self.foreground, self.background = foreground, background
        pyramid = SimpleASPP(2, channels[-1], width)
        self.network = nn.Sequential(pyramid, nn.Conv2d(4 * width, findings, 1))
        self.image = nn.Linear(findings * grid**2, width, bias=False)
        self.confounder = nn.Linear(grid**2, width, bias=False)
        self.join = nn.Conv2d(channels[-1] + findings, channels[-1], 1)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)  # type: ignore[arg-type]
        self.register_buffer("mask_sums", torch.zeros(findings, grid, grid))
        self.register_buffer("mask_counts", torch.zeros(findings))

    def forward(self, *pyramid: Tensor) -> Tensor:
        """Return features (B, D, h, w)."""
        return self.look(lambda masks: masks, *pyramid)[0]

    def look(self, joint: Callable[[Tensor], Tensor], *pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D, h, w) and masks (B, C, h, w)."""
        features = pyramid[-1]
        masks = joint(cell_probabilities(self.network(features.detach())))
        context = F.interpolate(self.context(masks.detach()), features.shape[2:], mode="bilinear", antialias=True)
        out: Tensor = features + self.join(torch.cat([features, context], 1))
        return out, masks

    def confounders(self) -> Tensor:
        """Return the mean mask (C, g, g) of each finding; 0 where there is none."""
        counts = torch.where(self.mask_counts > 0, self.mask_counts, 1)
        return self.mask_sums / counts[:, None, None]

    def context(self, masks: Tensor) -> Tensor:
        """Return M (B, C, g, g) of masks (B, C, h, w): each confounder, weighed by how it fits the image."""
        confounders = self.confounders()
        asking = self.image(F.adaptive_avg_pool2d(masks, self.grid).flatten(1))
        fits = asking @ self.confounder(confounders.flatten(1)).T / len(confounders) ** 0.5
        return fits.softmax(1)[:, :, None, None] * confounders / len(confounders)

    def loss(self, maps: Tensor, masks: Tensor, targets: Tensor) -> Tensor | None:
        """Return the cross-entropy of the masks with what the classifier's maps say; None without a known label."""
        share = maps.detach() / maps.detach().amax((2, 3), keepdim=True).clamp(min=1e-6)
        cost = cell_cross_entropy(masks, targets, share >= self.foreground, share <= self.background)
        return None if cost is None else self.weight * cost

    def counts_in(self, round_: int, rounds: int) -> bool:
        """Tell whether an iteration after the first begins with the round."""
        return (round_ - 1) * self.iterations // rounds > (round_ - 2) * self.iterations // rounds and round_ > 1

    def count(self, masks: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the sum of the masks of images that show a finding, (C, g, g), and their number, (C,)."""
        shown = (targets >= 0.5).float()
        pooled = F.adaptive_avg_pool2d(masks, self.grid)
        return {"mask_sums": torch.einsum("bc,bcij->cij", shown, pooled), "mask_counts": shown.sum(0)}

    def released(self, sums: dict[str, Tensor], patients: Tensor) -> dict[str, Tensor]:
        """Return what may leave a site of the sums over its images: nothing of a finding of few patients."""
        enough = patients >= self.least
        return {
            "mask_sums": sums["mask_sums"] * enough[:, None, None],
            "mask_counts": sums["mask_counts"] * enough,
        }
