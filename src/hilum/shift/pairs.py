"""Every pair of sites, every measure, and the two halves of each site as a control: one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from hilum.errors import DataError
from hilum.progress import progress
from hilum.randomness import numpy_generator
from hilum.shift.measures import EXACT, MEASURES, NAN, PRIVATE, RELEASES, Settings, Side
from hilum.shift.samples import Floats, check, halves, same_width, subsample
from hilum.shift.summary import Moments


@dataclass(frozen=True)
class Pair:
    """One measure of two sites, or of two halves of one (``site_a`` = ``site_b``).

    ``low`` and ``high``: 95 % interval, NaN for measures without; ``p_value``: of the permutation test; ``n_a`` and
    ``n_b``: images used, of private figures patients; ``bytes``: what one site sends, NaN where images would have to
    move; ``epsilon``: of the release that the figure is of; ``note``: why there is no value.
    """

    site_a: str
    site_b: str
    measure: str
    value: float = NAN
    low: float = NAN
    high: float = NAN
    p_value: float = NAN
    n_a: int = 0
    n_b: int = 0
    bytes: float = NAN
    epsilon: float = NAN
    note: str = ""


@dataclass(frozen=True)
class PairTable:
    """Records measure by measure, the pairs of each in alphabetical order; ``sites`` in the order they were given."""

    sites: tuple[str, ...]
    records: tuple[Pair, ...]

    def frame(self) -> pd.DataFrame:
        """Return one row a record."""
        return pd.DataFrame([asdict(record) for record in self.records])

    def matrix(self, measure: str) -> Floats:
        """Return the values (K, K) of a measure between sites, 0 on the diagonal; raises ``DataError``."""
        found = [r for r in self.records if r.measure == measure]
        if not found:
            have = ", ".join(dict.fromkeys(r.measure for r in self.records))
            raise DataError(f"Expected a measure of {have}; found '{measure}'.")
        place = {site: k for k, site in enumerate(self.sites)}
        values = np.zeros((len(place), len(place)))
        for record in found:
            if record.site_a != record.site_b:
                i, j = place[record.site_a], place[record.site_b]
                values[i, j] = values[j, i] = record.value
        return values

    def controls(self, measure: str) -> dict[str, Pair]:
        """Return the record of the two halves of each site."""
        return {r.site_a: r for r in self.records if r.measure == measure and r.site_a == r.site_b}


def pairwise(
    features: Mapping[str, ArrayLike],
    patients: Mapping[str, ArrayLike],
    *,
    measures: Sequence[str] = tuple(EXACT),
    max_images: int = 1000,
    folds: int = 5,
    permutations: int = 500,
    k: int = 16,
    seed: int = 0,
    epsilon: float | None = None,
    noise: np.random.Generator | None = None,
    controls: bool = True,
    label: str = "shift",
) -> PairTable:
    """Measure every pair of sites by features (n, d) and patients (n,), and two halves of each site's patients.

    At most ``max_images`` random images of a site; features are standardized by the moments of all sites together,
    so that one more site changes the unit of the others' EMD. ``measures``: names in ``measures.MEASURES``; the
    private ones need ``epsilon``, take the common unit to be public and have no halves, which would cost again. All
    private measures of a call share one noisy summary a site; ``noise`` is the system's entropy if not given. Other
    results depend on the seed and the names of the sites, not on their order. What cannot be measured (too few
    patients) is NaN with a ``note``. Raises ``DataError``.
    """
    unknown = [m for m in measures if m not in MEASURES]
    if unknown or (epsilon is None and set(measures) & set(PRIVATE)):
        raise DataError(
            f"Expected measures of {', '.join(MEASURES)}, the private ones with `epsilon`; "
            f"found {', '.join(unknown or measures)}."
        )
    if epsilon is not None and not 0 < epsilon < math.inf:
        raise DataError(f"Expected a finite ε above 0; found {epsilon}.")
    released = tuple(part for name, part in RELEASES.items() if name in measures)
    noise = noise or np.random.default_rng()
    settings = Settings(folds, permutations, k, seed, epsilon or NAN, released, noise)
    sides = _sides(features, patients, max_images, settings)
    couples: list[tuple[Side, ...]] = [(a, b) for i, a in enumerate(sides) for b in sides[i + 1 :]]
    split = [_halves(side) for side in sides] if controls else []
    work = [(m, couple) for m in measures for couple in (couples if m in PRIVATE else [*couples, *split])]
    records = []
    with progress(label, len(work)) as advance:
        for measure, couple in work:
            records.append(_record(measure, *couple))
            advance(note=measure)
    return PairTable(tuple(features), tuple(records))


def _sides(
    features: Mapping[str, ArrayLike], patients: Mapping[str, ArrayLike], max_images: int, settings: Settings
) -> list[Side]:
    if set(features) != set(patients) or not features:
        raise DataError(f"Expected patients of the sites {', '.join(features)}; found those of {', '.join(patients)}.")
    parts = {}
    for name in sorted(features):
        x, who = check(features[name], patients[name])
        rows = subsample(len(x), max_images, numpy_generator(settings.seed, "pairs"))
        parts[name] = x[rows], who[rows]
    first = next(iter(parts.values()))[0]
    for x, _ in parts.values():
        same_width(first, x)
    frame = Moments.pool([Moments.of(x) for x, _ in parts.values()])
    return [Side(name, 0, frame.standardize(x), who, settings) for name, (x, who) in parts.items()]


def _halves(side: Side) -> tuple[Side, ...]:
    """Return two halves of a site's patients; the whole where there is one patient only."""
    if side.patients.min() == side.patients.max():
        return (side,)
    rows = halves(side.patients, numpy_generator(side.settings.seed, "halves", side.site))
    return tuple(
        replace(side, half=half, x=side.x[r], patients=side.patients[r]) for half, r in enumerate(rows, start=1)
    )


def _record(measure: str, a: Side, b: Side | None = None) -> Pair:
    if b is None:
        return Pair(a.site, a.site, measure, n_a=len(a.x), note="Expected at least 2 patients to halve; found 1.")
    n_a, n_b = (len(np.unique(side.patients)) if measure in PRIVATE else len(side.x) for side in (a, b))
    record = Pair(a.site, b.site, measure, n_a=n_a, n_b=n_b)
    try:
        found = vars(MEASURES[measure](a, b)).copy()
    except DataError as error:
        return replace(record, note=str(error))
    n = found.pop("n")
    return replace(record, n_a=n or record.n_a, n_b=n or record.n_b, **found)
