"""Metrics and statistics on plain arrays; one registry of the figures a table of findings shows."""

from hilum.registry import Registry

METRICS = Registry(
    "metric",
    {
        "auroc": "hilum.evaluation.classification:auroc",
        "average_precision": "hilum.evaluation.classification:average_precision",
    },
)
