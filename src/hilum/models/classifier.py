"""The localizing classifier: a trunk, a neck, one map a finding, a pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from hilum.models import BACKBONES, NECKS, POOLINGS
from hilum.models.backbones.base import Backbone
from hilum.models.neck.base import Neck, NoNeck
from hilum.models.pooling.base import Pooling
from hilum.models.site_heads import SiteHeads
from hilum.models.taxonomy import Taxonomy

StateGroup = Literal["trunk", "head", "norm_affine", "norm_stats", "sums"]
NORMALIZATIONS = (nn.BatchNorm2d,)


@dataclass(frozen=True)
class Prediction:
    """What the model says of a batch: ``logits`` (B, C) and ``maps`` (B, C, h, w) in [0, 1].

    ``masks``: (B, C, h, w) in [0, 1], where the neck segments. With a taxonomy, ``logits`` are those of the findings
    given their parents; in ``maps`` and ``masks`` no child is above its parent.
    """

    logits: Tensor
    maps: Tensor
    masks: Tensor | None = None


class LocalizingClassifier(nn.Module):
    """Image-level classifier whose evidence is a map: trunk → neck → 1×1 head → one map a finding → pooling.

    Without a neck, every cell's logit is computed from the cell's receptive field alone, so that the map says where.
    (Poolings with attention then scale the map of an image as a whole.) ``site_heads``, where set, replaces the rows
    of the head by those of the hospitals that an image looks like. ``taxonomy``, where set, says that a logit is that
    of a finding given its parent.
    """

    def __init__(self, backbone: Backbone, pooling: Pooling, findings: int, neck: Neck | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck or NoNeck(backbone.pyramid_channels, findings)
        self.head = nn.Conv2d(backbone.channels, findings, 1)
        self.pooling = pooling
        self.site_heads: SiteHeads | None = None
        self.taxonomy: Taxonomy | None = None
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.head.bias), -2.0)

    def forward(self, x: Tensor) -> Prediction:
        """Return the prediction of images (B, 1, H, W) in [0, 1]."""
        features, masks = self._look(x)
        return replace(self.read(features), masks=masks)

    def answers(self, logits: Tensor) -> Tensor:
        """Return the logits (B, C) of the findings from those that ``forward`` returns and a loss takes."""
        return logits if self.taxonomy is None else self.taxonomy.unconditional(logits)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head reads, float32 (B, D, h, w), of images (B, 1, H, W) in [0, 1]."""
        return self._look(x)[0]

    def _look(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        pyramid = self.backbone.pyramid(x)[-self.neck.maps :]
        with torch.autocast(x.device.type, enabled=False):
            return self.neck.look(self._joint, *(features.float() for features in pyramid))

    def read(self, features: Tensor) -> Prediction:
        """Return the prediction of what ``features`` returned."""
        with torch.autocast(features.device.type, enabled=False):
            if self.site_heads is None:
                logits, maps = self.pooling(self.head(features), features)
            else:
                logits, maps = self.site_heads(features, self.head, self.pooling, self.taxonomy)
            return Prediction(logits, self.backbone.fold(self._joint(maps)).clamp(max=1))

    def _joint(self, maps: Tensor) -> Tensor:
        return maps if self.taxonomy is None else self.taxonomy.joint(maps)

    def state_groups(self) -> dict[str, StateGroup]:
        """Return the group of every floating tensor of the state that a site and a server exchange.

        ``head``: first axis is the finding. ``sums``: over the images of all sites. Integer counters have no group:
        nobody averages them.
        """
        groups: dict[str, StateGroup] = {}
        for prefix, module in self.named_modules():
            normalizes = isinstance(module, NORMALIZATIONS)
            dot = f"{prefix}." if prefix else ""
            for name, _ in module.named_parameters(recurse=False):
                groups[dot + name] = "norm_affine" if normalizes else "trunk"
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    groups[dot + name] = "norm_stats" if normalizes else "trunk"
        rows = ["head.weight", "head.bias", *(f"pooling.{name}" for name in self.pooling.per_finding)]
        sums = [f"neck.{name}" for name in self.neck.sums]
        return groups | dict.fromkeys(rows, "head") | dict.fromkeys(sums, "sums")


def build_model(
    backbone: Mapping[str, Any],
    pooling: Mapping[str, Any],
    findings: int,
    seed: int,
    neck: Mapping[str, Any] | None = None,
) -> LocalizingClassifier:
    """Build a classifier from ``{"name": …, option: …}`` of a backbone, a pooling and a neck.

    The same seed gives the same weights, whatever the caller's random state and the neck. Raises ``UnknownName``, and
    ``ValueError`` that begins with 'backbone: ', 'pooling: ' or 'neck: ' for options that cannot be.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = _construct(BACKBONES, backbone)
        pool = _construct(POOLINGS, pooling, trunk.channels, findings)
        model = LocalizingClassifier(trunk, pool, findings)
        model.neck = _construct(NECKS, neck or {"name": "none"}, trunk.pyramid_channels, findings)
        return model


def _construct(registry: Any, options: Mapping[str, Any], *positional: Any) -> Any:
    keywords = {key: value for key, value in options.items() if key != "name"}
    try:
        return registry.load(options["name"])(*positional, **keywords)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{registry.kind}: {error}") from error
