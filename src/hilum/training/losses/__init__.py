"""Losses on image logits with unknown labels masked out."""

from hilum.registry import Registry

LOSSES = Registry(
    "loss",
    {
        "masked_bce": "hilum.training.losses.masked_bce:MaskedBCE",
        "masked_focal": "hilum.training.losses.masked_focal:MaskedFocal",
        "weighted_bce": "hilum.training.losses.weighted_bce:WeightedBCE",
        "class_balanced": "hilum.training.losses.class_balanced:ClassBalanced",
        "asymmetric": "hilum.training.losses.asymmetric:Asymmetric",
        "ldam": "hilum.training.losses.ldam:LDAM",
        "distribution_balanced": "hilum.training.losses.distribution_balanced:DistributionBalanced",
    },
)
