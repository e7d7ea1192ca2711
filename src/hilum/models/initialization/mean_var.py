"""The scale of a donor's weights without what it learnt."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hilum.models.backbones.base import Backbone
from hilum.models.initialization.base import Initialization


class MeanVar(Initialization):
    """Weights drawn from the normal distribution of each donor tensor's mean and variance (Raghu et al. 2019).

    The donor's tensors have the trunk's names; their shapes may differ. Statistics of normalization stay as they are.
    A trunk of which a part is frozen is refused: what is drawn there would never be trained. ``donor``: safetensors of
    a model.
    """

    def __init__(self, donor: str) -> None:
        self.donor = donor

    def __call__(self, trunk: Backbone, donor: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Draw every weight of a trunk. Raises ``ValueError`` for a frozen one, and for a donor that lacks one."""
        parameters = dict(trunk.named_parameters())
        frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
        if frozen:
            raise ValueError(
                f"expected a trunk that is trained as a whole; found {len(frozen)} frozen tensors, such as "
                f"{frozen[0]}. Set the backbone's option frozen_blocks to 0, or choose the initialization transfusion"
            )
        absent = [name for name in parameters if name not in donor]
        if absent:
            raise ValueError(f"expected a donor with the trunk's {absent[0]}; found none")
        with torch.no_grad():
            for name, parameter in parameters.items():
                mean, deviation = donor[name].mean(), donor[name].std(unbiased=False)
                drawn = torch.randn(parameter.shape, generator=generator) * deviation + mean
                parameter.copy_(drawn)
