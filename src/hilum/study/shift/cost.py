"""What the noisy figures cost each site of its privacy, and those figures alone, fit to be shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hilum.shift.measures import PRIVATE, RELEASES
from hilum.shift.privacy import DELTA

Records = Sequence[Mapping[str, Any]]
SETTINGS = ("images", "folds", "clusters", "epsilon", "delta")


def privacy_cost(records: Records, names: Sequence[str], epsilon: float) -> dict[str, Any]:
    """Return ε and δ that each site spends on all its noisy figures together, by basic composition.

    A site releases one noisy summary for each kind of features, and noisy sums and errors for each other site and
    kind; every release spends ε and δ.
    """
    noisy = [record for record in records if record["measure"] in PRIVATE]
    sites = []
    for name in names:
        own = [record for record in noisy if name in (record["a"], record["b"])]
        summaries = len({record["kind"] for record in own if record["measure"] in RELEASES})
        pairs = sum(record["measure"] not in RELEASES for record in own)
        total = summaries + pairs
        sites.append(
            {
                "site": name,
                "summaries": summaries,
                "a_distances": pairs,
                "epsilon": total * epsilon,
                "delta": total * DELTA,
            }
        )
    return {"epsilon": epsilon, "delta": DELTA, "sites": sites}


def private_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return of the content of ``shift.json`` what no patient's images show in, but for the noise."""
    return {
        **{key: content[key] for key in ("schema", "hilum", "study")},
        "settings": {key: content["settings"][key] for key in SETTINGS},
        "sites": [{"name": site["name"], "drawn_patients": site["drawn_patients"]} for site in content["sites"]],
        "kinds": [kind["name"] for kind in content["kinds"]],
        "privacy": content["privacy"],
        "pairs": [record for record in content["pairs"] if record["measure"] in PRIVATE],
    }
