"""Findings that are kinds of others: a model of the conditional, and what it says of the findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hilum.findings.taxonomy import ancestors


class Taxonomy:
    """Which findings of a model are kinds of which others of it (HMLC, Chen et al. 2020).

    A logit x_m tells P(m | parent of m), and P(m) = Π σ(x_j) over m and its ancestors, so that no child is above its
    parent. Ancestors that the model has no finding for are left out.
    """

    def __init__(self, findings: Sequence[str]) -> None:
        columns = {finding: c for c, finding in enumerate(findings)}
        lines = [[columns[a] for a in ancestors(finding) if a in columns] for finding in findings]
        self.parents = torch.tensor([line[0] if line else -1 for line in lines])
        self.above = torch.tensor([[float(c in line) for c in range(len(lines))] for line in lines])  # row: a child
        depths = torch.tensor([len(line) for line in lines])
        self.levels = [torch.nonzero(depths == depth).flatten() for depth in range(1, int(depths.max()) + 1)]

    def unconditional(self, logits: Tensor) -> Tensor:
        """Return the logits of P(m) from those of P(m | parent): both (B, C).

        With the parent's u, (1 − P) / P = e^(−x) + e^(−u) + e^(−x−u), which stays finite, with its gradient, where the
        product is 0 or 1 in float32. It is never less than e^(−u), the parent's.
        """
        return self._down(logits, lambda x, u: -torch.stack([-x, -u, -x - u]).logsumexp(0))

    def joint(self, probabilities: Tensor) -> Tensor:
        """Return P(m) from P(m | parent), both (B, C, …) in [0, 1]: of cells, as of images."""
        return self._down(probabilities, torch.mul)

    def of_parents(self, values: Tensor, root: float) -> Tensor:
        """Return the values (B, C, …) of every finding's parent; ``root`` for a finding without one."""
        parents = self.parents.to(values.device)
        child = (parents >= 0).view(-1, *[1] * (values.ndim - 2))
        return torch.where(child, values[:, parents.clamp(min=0)], root)

    def _down(self, values: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Combine every child's values with its parent's, from the top down."""
        parents = self.parents.to(values.device)
        for level in self.levels:
            children = level.to(values.device)
            values = values.index_copy(1, children, combine(values[:, children], values[:, parents[children]]))
        return values

    def conditional(self, targets: Tensor) -> Tensor:
        """Return the targets (B, C) of the conditional: unknown where the parent is not known to be there.

        A positive child (1, not a soft label below it) tells that an ancestor is there, unless that or one above it is
        labelled 0. The ancestor's own target stays as it was: labels are closed by the study's ``closure``.
        """
        parents = self.parents.to(targets.device)
        open_ = (parents < 0) | self._there(targets)[:, parents.clamp(min=0)]
        return torch.where(open_, targets, torch.nan)

    def _there(self, targets: Tensor) -> Tensor:
        above, positive, negative = self.above.to(targets.device), targets == 1, targets == 0
        implied = (positive.float() @ above) > 0
        denied = negative | ((negative.float() @ above.T) > 0)
        return positive | (implied & ~denied)
