"""Examples: what a local training draws its batches from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.randomness import fixed_order
from hilum.sites.site import Site
from hilum.sites.weights import site_shares

Targets = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """``images`` (B, 1, S, S) float32 in [0, 1]; ``targets`` (B, C), NaN unknown; ``source`` (B,) of the examples."""

    images: Tensor
    targets: Tensor
    source: Tensor


@dataclass(frozen=True)
class Examples:
    """Images of one split of one site, or of several sites where they are pooled."""

    sources: tuple[tuple[Site, NDArray[np.int64]], ...]

    @classmethod
    def of(cls, sites: Sequence[Site], split: str) -> Examples:
        """Return the images of a split of the sites that have any."""
        rows = [(site, site.indices(split)) for site in sites]
        return cls(tuple((site, r) for site, r in rows if len(r)))

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.sources)

    def unknown_negative(self) -> Examples:
        """Return the images with every unknown label negative."""
        return self.relabelled(lambda targets: np.nan_to_num(targets, nan=0.0))

    def relabelled(self, change: Callable[[Targets], Targets]) -> Examples:
        """Return the images with other labels: ``change`` takes those of a site, (N, C), and returns as many."""
        return Examples(tuple((replace(site, targets=change(site.targets)), rows) for site, rows in self.sources))

    def known(self) -> NDArray[np.int64]:
        """Count known labels: (sources, C)."""
        return np.stack([(~np.isnan(site.targets[rows])).sum(0) for site, rows in self.sources])

    def positive(self) -> NDArray[np.int64]:
        """Count positive labels: (sources, C)."""
        return np.stack([np.rint(np.nansum(site.targets[rows], 0)).astype(np.int64) for site, rows in self.sources])

    def patients(self) -> NDArray[np.int64]:
        """Count patients with a positive label: (sources, C)."""
        return np.stack(
            [
                [len(np.unique(site.patients[rows[shown]])) for shown in (site.targets[rows] >= 0.5).T]
                for site, rows in self.sources
            ]
        )

    def showing(self, limit: int) -> Examples:
        """Return the images that show a finding: of each source and finding at most ``limit``, evenly spread."""
        chosen = []
        for site, rows in self.sources:
            shown = [np.flatnonzero(column) for column in (site.targets[rows] >= 0.5).T]
            spread = [p[np.linspace(0, len(p) - 1, min(limit, len(p))).astype(np.int64)] for p in shown]
            chosen.append((site, rows[np.unique(np.concatenate(spread))]))
        return Examples(tuple((site, rows) for site, rows in chosen if len(rows)))

    def batch(self, source: NDArray[np.int64], position: NDArray[np.int64]) -> Batch:
        """Return the batch of (source, position in its rows) pairs."""
        size = self.sources[0][0].pixels.pixels.shape[1]
        pixels = np.empty((len(source), size, size), np.uint8)
        targets = np.empty((len(source), len(self.sources[0][0].findings)), np.float32)
        for k in np.unique(source):
            site, rows = self.sources[k]
            here = source == k
            pixels[here] = site.images(rows[position[here]])
            targets[here] = site.targets[rows[position[here]]]
        images = torch.from_numpy(pixels).unsqueeze(1).float().div_(255)
        return Batch(images, torch.from_numpy(targets), torch.from_numpy(source))

    def shares(self, tau: float, weighting: str = "known") -> NDArray[np.float64]:
        """Return how often each source is drawn: as a federation weighs it (``sites.weights.site_shares``)."""
        return site_shares(self._images(), self.known(), self.positive(), tau, weighting)

    def drawn(self, counts: NDArray[np.int64], tau: float, weighting: str = "known") -> NDArray[np.float64]:
        """Return counts (C,) over all images, of those of each source (sources, C), as often as these are drawn."""
        images = self._images()
        return np.asarray((self.shares(tau, weighting) * images.sum() / images) @ counts)

    def _images(self) -> NDArray[np.int64]:
        return np.array([len(rows) for _, rows in self.sources])

    def draw(
        self, images: int, size: int, tau: float, rng: np.random.Generator, weighting: str = "known"
    ) -> Iterator[Batch]:
        """Yield so many ``images`` in shuffled batches of ``size``, the last as large as it comes.

        A source is drawn as often as its share says, and each of its images once before any again.
        """
        counts, p = self._images(), self.shares(tau, weighting)
        source = rng.choice(len(counts), images, p=p)
        position = np.empty_like(source)
        for k, count in enumerate(counts):
            wanted = int((source == k).sum())
            passes = [rng.permutation(count) for _ in range(-(-wanted // count))]
            position[source == k] = np.concatenate([*passes, np.empty(0, np.int64)])[:wanted]
        for start in range(0, images, size):
            yield self.batch(source[start : start + size], position[start : start + size])

    def chunks(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield every image once, in order, at most ``limit`` of each source (evenly spread)."""
        for k, positions in enumerate(self._spread(limit)):
            for start in range(0, len(positions), size):
                part = positions[start : start + size]
                yield self.batch(np.full(len(part), k, np.int64), part)

    def mixed(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield the images of ``chunks`` in one fixed order across all sources, so that each batch is like the whole.

        Statistics of a batch would else be those of one source, or of one kind of film where rows are sorted by it.
        """
        spread = self._spread(limit)
        source, position = np.repeat(np.arange(len(spread)), [len(p) for p in spread]), np.concatenate(spread)
        order = fixed_order(len(position))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            yield self.batch(source[part], position[part])

    def _spread(self, limit: int | None) -> list[NDArray[np.int64]]:
        """Return at most ``limit`` positions in the rows of each source, evenly spread."""
        counts = [len(rows) if limit is None else min(limit, len(rows)) for _, rows in self.sources]
        return [
            np.linspace(0, len(rows) - 1, count).astype(np.int64)
            for count, (_, rows) in zip(counts, self.sources, strict=True)
        ]
