"""A small made-up run directory, as a finished study would leave it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FINDINGS = ["Pneumonia", "Tuberculosis", "Effusion"]
ARMS = ["local", "pooled", "federated"]
SEEDS = [0, 1, 2]
TRAINING = ["north", "south", "harbour", "children"]
OUTSIDE = "valley"
GRID = 14

# Test labels (positive, negative) of each site; a finding not listed is unknown there.
TEST = {
    "north": {"Pneumonia": (61, 94), "Effusion": (40, 115)},
    "south": {"Tuberculosis": (48, 52)},
    "harbour": {"Tuberculosis": (120, 0)},
    "children": {"Pneumonia": (210, 160)},
    "valley": {"Pneumonia": (12, 60), "Tuberculosis": (15, 57), "Effusion": (0, 72)},
}
BOXED = {"north": ["Pneumonia"], "harbour": ["Tuberculosis"]}


def write_fake_run(
    tmp_path: Path, *, data: str = "phantom", rename: dict[str, str] | None = None, seeds: int = 3
) -> Path:
    """Write a finished run under ``tmp_path`` and return its directory.

    ``rename`` replaces names of sites by others (folders keep the old name with its harmless letters).
    """
    run = tmp_path / "run"
    chosen, names = SEEDS[:seeds], rename or {}
    images = {site: [f"{site}-img-{i:05d}" for i in range(12)] for site in (*TRAINING, OUTSIDE)}
    _json(run / "run.json", _run(data, chosen))
    (run / "study.yaml").write_text("name: chest\nfederation:\n  strategy: fedavg\n  rounds: 20\n", "utf-8")
    _json(run / "sites.json", [_site(s, names.get(s, s), data) for s in (*TRAINING, OUTSIDE)])
    _json(run / "metrics.json", _metrics(chosen, names))
    rounds = [json.dumps(line) for line in _rounds(chosen, names)]
    (run / "metrics.jsonl").write_text("\n".join(rounds) + "\n", "utf-8")
    for site, ids in images.items():
        rows = [[i, f"patient{n:04d}hash", "test"] for n, i in enumerate(ids)]
        _csv(run / "splits" / f"{names.get(site, site)}.csv", ["image_id", "patient", "split"], rows)
    _gallery(run, images, names)
    return run


def write_fake_evaluation(run: Path) -> Path:
    """Write what ``hilum evaluate`` would find of the run, in agreement with its metrics.json, and return the run.

    Tuberculosis is the tail: in the mean over sites there is south's average precision alone, 48 of 100 positive.
    """
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))

    def overall(kind: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k != "seed"} for r in metrics[kind] if r["seed"] == "all"]

    classification = [{"sd": 0.01, "findings": 1, "seeds": len(SEEDS)} | r for r in overall("classification")]
    for arm in ("pooled", "federated"):
        head = {"arm": arm, "model": arm, "site": "macro", "metric": "average_precision", "seeds": 3, "sd": 0.01}
        means = (("tail", 100, 48, 1), ("medium", 680, 311, 3), ("macro", 780, 359, 4))
        classification += [
            {**head, "finding": name, "value": 0.8, "low": 0.7, "high": 0.9, "n": n, "positives": p, "findings": f}
            for name, n, p, f in means
        ]
    beside = {"gaussian_prior": 0.12, "shuffled": 0.08}
    localization = [{"sd": 0.01, "findings": 1} | r | beside for r in overall("localization")]
    test = {"arm": "federated", "model": "federated", "seeds": 3}
    places = [{"site": site, "finding": finding} for site, (finding,) in BOXED.items()]
    lesions = {"n": 34, "boxed": 34, "lesions": 1.2, "control": 0.3, "value": 0.9, "low": 0.6, "high": 1.2}
    lesions |= {"p": 1e-4, "p_holm": 2e-4}
    border = {"positives": 61, "n": 155, "negatives_of": "own", "whole": 0.9, "whole_low": 0.85, "whole_high": 0.95}
    border |= {"value": 0.52, "low": 0.45, "high": 0.59, "odds": 1.5, "border_odds": 0.1}
    content = {
        "schema": 1,
        "study": "Four hospitals and a fifth",
        "resamples": 1000,
        "level": 0.95,
        "groups": {"head": [], "medium": ["Pneumonia", "Effusion"], "tail": ["Tuberculosis"]},
        "training_positives": {"Pneumonia": 813, "Tuberculosis": 99, "Effusion": 120},
        "erased": True,
        "validation": True,
        "classification": classification,
        "localization": localization,
        "lesions": [test | place | lesions for place in places],
        "borders": [test | place | border for place in places],
    }
    content["checks"] = [
        {"arm": arm, "model": arm, "seeds": 3, "site": site, "finding": finding, "check": check}
        | {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 34}
        for arm in ("pooled", "federated")
        for site, (finding,) in BOXED.items()
        for check, value in (("shuffled", 0.1), ("other_findings", 0.3), ("same_peak", 0.05))
    ]
    content["comparisons"] = [
        {"arm": "federated", "against": arm, "site": site, "finding": finding, "metric": metric, "n": 34, "sd": 0.01}
        | {"findings": 1, "value": gain, "low": gain - 0.05, "high": gain + 0.05, "p": 0.01, "p_holm": 0.02, "tests": 2}
        for arm in ("local", "pooled")
        for site, (finding,) in BOXED.items()
        for metric, gain in (("pointing_game", 0.12 if site == "north" else -0.02), ("iou", -0.08))
    ]
    empty = ("thresholds", "calibration", "ranks")
    _json(run / "evaluation.json", content | {name: [] for name in empty})
    return run


def _run(data: str, seeds: list[int]) -> dict[str, Any]:
    return {
        "schema": 1,
        "hilum": "0.1.0",
        "study": "Four hospitals and a fifth",
        "started": "2026-01-05T08:00:00+00:00",
        "finished": "2026-01-05T13:10:00+00:00",
        "packages": {"torch": "2.13.0", "numpy": "2.3.1"},
        "machine": {"cores": 2, "threads": 2, "device": "cpu"},
        "data": data,
        "seeds": seeds,
        "arms": ARMS,
        "findings": FINDINGS,
        "input_size": 224,
        "updates": {"per_site": 400, "rounds": 20, "batch": 16},
        "model": {
            "backbone": "efficientnet-lite0",
            "pooling": "log-sum-exp",
            "parameters": 3_400_123,
            "receptive_field": 203,
            "stride": 16,
        },
    }


def _site(key: str, name: str, data: str) -> dict[str, Any]:
    test = TEST[key]
    n = max(p + q for p, q in test.values())
    outside = key == OUTSIDE
    counts = {
        finding: {
            "raw": {
                "positive": p * 5,
                "negative": q * 5,
                "uncertain": 7 if finding == "Effusion" else 0,
                "unknown": (n - p - q) * 5,
            },
            "train": {"positive": p * 3, "negative": q * 3, "unknown": (n - p - q) * 3},
            "test": {"positive": p, "negative": q, "unknown": n - p - q},
        }
        for finding, (p, q) in test.items()
    }
    splits = {"train": n * 3, "val": n, "test": n}
    return {
        "name": name,
        "database": "phantom",
        "title": f"Phantom hospital {name}",
        "hospital": f"The made-up hospital of {name}",
        "licence": "CC0 1.0",
        "citation": "hilum phantom hospitals, drawn by a program",
        "url": "https://example.org/phantom",
        "synthetic": data == "phantom",
        "role": "outside" if outside else "training",
        "images": n * 5,
        "patients": n * 4,
        "left_out": [{"reason": "empty file", "count": 4}, {"reason": "truncated or damaged", "count": 1}]
        if key == "north"
        else [],
        "problems": [{"reason": "box outside its image", "count": 3}] if key == "north" else [],
        "label_policy": "ignore",
        "views": {"PA": n * 4, "AP": n, "unknown": 0},
        "age": None if outside else {"known": n * 5, "median": 47.0, "q1": 33.0, "q3": 61.5},
        "sex": {"known": 0 if outside else n * 5, "male": 0 if outside else n * 3},
        "splits": {
            part: {"images": 0 if outside and part != "test" else k, "patients": k} for part, k in splits.items()
        },
        "findings": counts,
        "boxes": {finding: 34 for finding in BOXED.get(key, [])},
    }


def _models() -> Iterator[tuple[str, str]]:
    yield from (("local", site) for site in TRAINING)
    yield from (("pooled", "pooled"), ("federated", "federated"))


def _level(arm: str, model: str, site: str) -> float:
    if arm == "pooled":
        return 0.91
    if arm == "federated":
        return 0.895
    return 0.87 if model == site else 0.46 if (model, site) == ("harbour", "south") else 0.70


def _metrics(seeds: list[int], names: dict[str, str]) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    classification: list[dict[str, Any]] = []
    localization: list[dict[str, Any]] = []
    for arm, model in _models():
        for site, test in TEST.items():
            key = {"arm": arm, "model": names.get(model, model), "site": names.get(site, site)}
            total = max(p + q for p, q in test.values())
            rows = [(f, *test.get(f, (0, 0))) for f in FINDINGS]
            rows.append(("macro", sum(p for p, q in test.values() if p and q), total))
            for finding, p, q in rows:
                exists = any(a and b for a, b in test.values()) if finding == "macro" else bool(p and q)
                n = total if finding == "macro" else p + q
                for metric, shift in (("auroc", 0.0), ("average_precision", -0.06)):
                    base = {**key, "finding": finding, "metric": metric, "n": n, "positives": p}
                    base |= {"findings": sum(bool(x and y) for x, y in test.values())} if finding == "macro" else {}
                    level = float(np.clip(_level(arm, model, site) + shift + draw.normal(0, 0.015), 0, 0.995))
                    half = 1.1 * (level * (1 - level) / max(n, 1)) ** 0.5
                    classification += _records(base, level if exists else None, half, seeds, draw)
            for finding in [*BOXED.get(site, []), *(["macro"] if site in BOXED else [])]:
                for metric, level, random_map, centre in (
                    ("pointing_game", 0.52, 0.09, 0.14),
                    ("iou", 0.21, 0.06, 0.09),
                    ("iobb", 0.33, 0.09, 0.13),
                    ("box_energy", 0.28, 0.10, 0.13),
                ):
                    shown = level * {"local": 0.8, "pooled": 1.0, "federated": 1.05}[arm]
                    base = {**key, "finding": finding, "metric": metric, "n": 34}
                    base |= {"random_map": random_map, "centre_prior": centre}
                    localization += _records(base, shown, 0.1, seeds, draw)
    comparisons = [
        {
            "seed": "all",
            "site": names.get(site, site),
            "finding": finding,
            "metric": metric,
            "arm": "federated",
            "against": arm,
            "against_model": names.get(model, model),
            **_difference(arm, model, site, _scored(test, finding), scale),
            "n": sum(test.get(finding, (0, 0))) or max(p + q for p, q in test.values()),
        }
        for site, test in TEST.items()
        for finding in (*FINDINGS, "macro")
        for metric, scale in (("auroc", 1), ("average_precision", 2))
        for arm, model in _models()
        if arm != "federated"
    ]
    return {
        "schema": 1,
        "classification": classification,
        "localization": localization,
        "comparisons": comparisons,
    }


def _difference(arm: str, model: str, site: str, exists: bool, scale: int) -> dict[str, float | None]:
    if not exists:
        return {"value": None, "low": None, "high": None}
    if arm == "pooled":
        found = (-0.016, -0.03, -0.003)
    else:
        found = (0.02, -0.012, 0.05) if model == site else (0.19, 0.15, 0.23)
    return {name: scale * value for name, value in zip(("value", "low", "high"), found, strict=True)}


def _scored(test: dict[str, tuple[int, int]], finding: str) -> bool:
    if finding == "macro":
        return any(p and q for p, q in test.values())
    p, q = test.get(finding, (0, 0))
    return bool(p and q)


def _records(
    base: dict[str, Any], level: float | None, half: float, seeds: list[int], draw: np.random.Generator
) -> Iterator[dict[str, Any]]:
    for seed in seeds:
        value = None if level is None else round(level + draw.normal(0, 0.008), 4)
        low, high = (None, None) if value is None else (round(value - half, 4), round(min(1, value + half), 4))
        yield {"seed": seed, **base, "value": value, "low": low, "high": high}
    low, high = (None, None) if level is None else (round(level - half, 4), round(min(1, level + half), 4))
    value = None if level is None else round(level, 4)
    yield {"seed": "all", **base, "value": value, "low": low, "high": high, "seeds": len(seeds), "sd": 0.01}


def _rounds(seeds: list[int], names: dict[str, str]) -> Iterator[dict[str, Any]]:
    draw = np.random.default_rng(1)
    for seed in seeds:
        for arm, model in _models():
            sites = [model] if arm == "local" else TRAINING
            for number in range(1, 21):
                fall = np.exp(-number / 6)
                train = {names.get(s, s): 0.08 + 0.55 * fall + draw.normal(0, 0.012) for s in sites}
                valid = {names.get(s, s): 0.2 + 0.45 * fall + 0.004 * number + draw.normal(0, 0.01) for s in sites}
                yield {
                    "seed": seed,
                    "arm": arm,
                    "model": names.get(model, model),
                    "round": number,
                    "updates": 20 * number,
                    "seconds": 11.5,
                    "train_loss": train,
                    "validation_loss": None if model == "harbour" else valid,
                }


def _gallery(run: Path, images: dict[str, list[str]], names: dict[str, str]) -> None:
    entries: list[dict[str, Any]] = []
    for site, ids in images.items():
        shown = names.get(site, site)
        folder = run / "gallery" / "".join(c for c in shown if c.isalnum())
        folder.mkdir(parents=True)
        wanted: list[str | None] = [None] * 4 + [f for f in BOXED.get(site, []) for _ in range(3)]
        for k, finding in enumerate(wanted):
            box = (0.22 + 0.04 * k, 0.3, 0.42 + 0.04 * k, 0.55)
            boxes = [box] if finding else []
            picture_of_a_chest(boxes, k).save(folder / f"{k}.png")
            entries.append(
                {
                    "site": shown,
                    "file": f"gallery/{folder.name}/{k}.png",
                    "image_id": ids[k],
                    "finding": finding,
                    "boxes": [list(b) for b in boxes],
                }
            )
    _json(run / "gallery" / "gallery.json", entries)
    for site in BOXED:
        for arm, model in _models():
            if arm != "local" or model == site:
                mine = [e for e in entries if e["site"] == names.get(site, site) and e["finding"]]
                write_maps(run, arm, names.get(model, model), names.get(site, site), mine)


def write_maps(run: Path, arm: str, model: str, site: str, entries: list[dict[str, Any]]) -> None:
    """Write maps that hit in all but the last entry, and predictions for them."""
    ys, xs = np.mgrid[0:GRID, 0:GRID] / GRID + 0.5 / GRID
    maps = np.zeros((len(entries), len(FINDINGS), GRID, GRID), np.float16)
    for i, entry in enumerate(entries):
        x0, y0, x1, y1 = entry["boxes"][0]
        x, y = ((x0 + x1) / 2, (y0 + y1) / 2) if i < len(entries) - 1 else (0.8, 0.8)
        width = 0.09 if arm == "federated" else 0.13
        maps[i] = 0.8 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * width**2)) + 0.05
    file = run / "maps" / "seed_0" / arm / model / f"{site}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, image_id=np.array([e["image_id"] for e in entries]), findings=np.array(FINDINGS), maps=maps)
    rows = [[e["image_id"], "patient0000hash", 0.83, 0.61, ""] for e in entries]
    file = run / "predictions" / "seed_0" / arm / model / f"{site}.csv"
    _csv(file, ["image_id", "patient", *FINDINGS], rows)


def picture_of_a_chest(boxes: list[tuple[float, float, float, float]], k: int, side: int = 320) -> Image.Image:
    """Return a grey drawing: two dark lungs, a bright heart, a bright blob in each box."""
    image = Image.new("L", (side, side), 40)
    draw = ImageDraw.Draw(image)

    def at(*fractions: float) -> list[float]:
        return [f * side for f in fractions]

    draw.rounded_rectangle(at(0.08, 0.05, 0.92, 1.1), side // 5, fill=150)
    draw.ellipse(at(0.16, 0.14, 0.46, 0.84), fill=60 + 5 * k)
    draw.ellipse(at(0.54, 0.14, 0.84, 0.84), fill=60 + 5 * k)
    draw.ellipse(at(0.42, 0.45, 0.72, 0.85), fill=190)
    for i in range(7):
        draw.arc(at(0.1, 0.12 + 0.1 * i, 0.9, 0.5 + 0.1 * i), 200, 340, fill=120, width=5)
    for x0, y0, x1, y1 in boxes:
        draw.ellipse(at(x0 + 0.03, y0 + 0.03, x1 - 0.03, y1 - 0.03), fill=175)
    return image.filter(ImageFilter.GaussianBlur(4))


def _json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), "utf-8")


def _csv(file: Path, header: list[str], rows: list[list[Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([header, *rows])
