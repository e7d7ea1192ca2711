"""The lowest layers of a donor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hilum.models.backbones.base import Backbone
from hilum.models.initialization.base import Initialization


class Transfusion(Initialization):
    """A donor's weights and statistics up to one layer; the rest is drawn anew (Raghu et al. 2019).

    ``donor``: safetensors of a model; ``upto``: the last layer, as the trunk names it, such as ``stages.1``; null is
    the whole trunk.
    """

    def __init__(self, donor: str, upto: str | None = None) -> None:
        self.donor, self.upto = donor, upto

    def __call__(self, trunk: Backbone, donor: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Copy the tensors. Raises ``ValueError`` for a layer that the trunk lacks, or another donor than its kind."""
        state = trunk.state_dict()
        for name in prefix(trunk, self.upto):
            if name not in donor or donor[name].shape != state[name].shape:
                found = f"one of shape {tuple(donor[name].shape)}" if name in donor else "none"
                raise ValueError(f"expected a donor with {name} of shape {tuple(state[name].shape)}; found {found}")
            state[name].copy_(donor[name])


def prefix(trunk: Backbone, upto: str | None) -> list[str]:
    """Return the names of a trunk's tensors from its first to the last of layer ``upto``. Raises ``ValueError``."""
    names = list(trunk.state_dict())
    if upto is None:
        return names
    within = [k for k, name in enumerate(names) if name.startswith(f"{upto}.")]
    if not within:
        layers = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
        raise ValueError(f"expected a layer of the trunk, such as {', '.join(layers)}; found '{upto}'")
    return names[: within[-1] + 1]
