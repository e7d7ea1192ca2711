"""Images that are most typical of each site, and those that look as if they came from another."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.images.letterbox import Frame
from hilum.randomness import numpy_generator
from hilum.shift.embedding import sample_embedding, site_embedding, typical_and_foreign
from hilum.shift.samples import standardize, subsample
from hilum.study.directory import RunDirectory
from hilum.study.shift.features import Features
from hilum.study.shift.sample import Sample
from hilum.training.state import write_atomically

EXAMPLES, THUMBNAIL = 6, 128
POINTS = 150
FOLDER = "thumbnails"


def choose_examples(features: Sequence[Features], samples: Sequence[Sample], seed: int) -> list[dict[str, Any]]:
    """Return the chosen images of every site: ``row`` of the sample, ``site`` it looks like, ``probability``."""
    names = [sample.site.name for sample in samples]
    found = typical_and_foreign(
        dict(zip(names, features, strict=True)),
        {sample.site.name: sample.patients for sample in samples},
        count=EXAMPLES,
        seed=seed,
    )
    return [
        {"site": name, "role": role, "row": one.row, "looks_like": one.site, "probability": one.probability}
        for name in names
        for role, chosen in (("typical", found[name].typical), ("foreign", found[name].foreign))
        for one in chosen
    ]


def write_examples(
    chosen: Sequence[dict[str, Any]], samples: Sequence[Sample], out: RunDirectory, pictures: bool
) -> list[dict[str, Any]]:
    """Write a thumbnail of every chosen image, or none, and return the examples with ``file`` in place of the row."""
    shutil.rmtree(out.root / FOLDER, ignore_errors=True)
    by_name = {sample.site.name: sample for sample in samples}
    written, counts = [], dict.fromkeys(((s.site.name, role) for s in samples for role in ("typical", "foreign")), 0)
    for one in chosen:
        number = counts[one["site"], one["role"]]
        counts[one["site"], one["role"]] += 1
        file = f"{FOLDER}/{one['site']}/{one['role']}_{number}.png" if pictures else None
        if file is not None:
            write_atomically(out.root / file, _thumbnail(by_name[one["site"]], one["row"]))
        written.append({**{k: v for k, v in one.items() if k != "row"}, "file": file})
    return written


def embed(
    kind: str, features: Sequence[Features], samples: Sequence[Sample], distances: NDArray[np.float64], seed: int
) -> dict[str, Any]:
    """Return where the sites lie on a plane that keeps ``distances`` (K, K), null where one of those is unknown.

    ``images``: at most ``POINTS`` images of each site on the first two principal components, sites weighing alike.
    """
    names = [sample.site.name for sample in samples]
    known = not np.isnan(distances).any()
    size = min(POINTS, *(len(x) for x in features))
    rows = [
        subsample(len(x), size, numpy_generator(seed, "embedding", n)) for n, x in zip(names, features, strict=True)
    ]
    drawn = standardize([x[r] for x, r in zip(features, rows, strict=True)])
    points = np.split(sample_embedding(np.concatenate(drawn)), len(names))
    return {
        "kind": kind,
        "sites": dict(zip(names, site_embedding(distances).tolist(), strict=True)) if known else None,
        "images": {name: np.round(part, 3).tolist() for name, part in zip(names, points, strict=True)},
    }


def _thumbnail(sample: Sample, row: int) -> bytes:
    from PIL import Image

    index = sample.drawn[row]
    square = sample.site.images(np.array([index]))[0]
    x0, y0, x1, y1 = (round(float(v) * len(square)) for v in Frame(*sample.site.frames[index]))
    picture = Image.fromarray(np.ascontiguousarray(square[y0:y1, x0:x1]))
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
