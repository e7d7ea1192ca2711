"""Losses on the cells of maps, beside the loss on image logits."""

from hilum.registry import Registry

CELL_LOSSES = Registry(
    "cell loss",
    {
        "none": "hilum.training.cell_losses.base:CellLoss",
        "self_guided": "hilum.training.cell_losses.self_guided:SelfGuided",
    },
)
