"""One part for every view."""

from __future__ import annotations

from hilum.sites.partitioners.natural_id import NaturalIdPartitioner


class ViewPartitioner(NaturalIdPartitioner):
    """One part for every view: PA, AP, FRONTAL, LATERAL.

    A patient belongs to the view of most of their images, and to the first in the alphabet where views tie; their
    other images, and images of no stated view, are left out.
    """

    def __init__(self) -> None:
        super().__init__("view")
