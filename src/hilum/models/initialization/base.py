"""The interface of an initialization, and the one that leaves the seed's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hilum.models.backbones.base import Backbone


class Initialization:
    """The seed's weights, drawn anew."""

    def __call__(self, trunk: Backbone, donor: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Change a trunk's weights in place. ``donor``: the state of a trunk, by the names of its tensors."""
