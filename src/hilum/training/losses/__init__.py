"""Losses on image logits with unknown labels masked out."""

from hilum.registry import Registry

LOSSES = Registry(
    "loss",
    {
        "masked_bce": "hilum.training.losses.masked_bce:masked_bce",
        "masked_focal": "hilum.training.losses.masked_focal:masked_focal",
    },
)
