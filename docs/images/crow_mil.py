"""Draw crow-mil.svg: python docs/images/crow_mil.py docs/images/crow-mil.svg"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

SHARED, OWN, STATISTICS, EMPTY, INK = "#c9dcf2", "#f6d3a8", "#d5e8cf", "#ffffff", "#24292f"
ROWS = ("Effusion", "Mass", "Pneumonia")
HOSPITALS = {"Hospital A": (True, True, False), "Hospital B": (True, False, True), "Hospital C": (False, True, True)}
WIDTH, GAP = 2.1, 0.25


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, size: float = 9) -> None:
    """Draw a rounded box with its text in the middle."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor=INK, linewidth=0.9)
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], both: bool = False) -> None:
    """Draw an arrow."""
    style = {"arrowstyle": "<|-|>" if both else "-|>", "color": INK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def hospital(axes: Axes, x: float, name: str, own: tuple[bool, ...]) -> None:
    """Draw a hospital: its copy of the trunk, its statistics, its rows."""
    box(axes, x, 0.1, WIDTH, 3.3, "", EMPTY)
    axes.text(x + WIDTH / 2, 3.2, name, ha="center", va="center", fontsize=10, fontweight="bold", color=INK)
    box(axes, x + 0.12, 2.45, WIDTH - 0.24, 0.5, "trunk", SHARED)
    box(axes, x + 0.12, 1.8, WIDTH - 0.24, 0.5, "own statistics μ, σ²", STATISTICS)
    for k, (finding, mine) in enumerate(zip(ROWS, own, strict=True)):
        text = f"{finding}: own row" if mine else f"{finding}: not labelled"
        box(axes, x + 0.12, 1.25 - 0.48 * k, WIDTH - 0.24, 0.4, text, OWN if mine else EMPTY, 8)


def cells(axes: Axes, x: float, y: float, values: np.ndarray, marked: bool) -> None:
    """Draw a grid of cells, side 1.2; where ``marked`` in frames as thick as the attention that they get."""
    side = 1.2 / len(values)
    attention = np.exp(6 * (values - values.max()))
    for (row, column), value in np.ndenumerate(values):
        corner = (x + column * side, y + 1.2 - (row + 1) * side)
        colour = plt.get_cmap("YlOrRd")(0.85 * value) if marked else SHARED
        axes.add_patch(Rectangle(corner, side, side, facecolor=colour, edgecolor="white", linewidth=0.6))
    for row, column in np.argwhere(attention > 0.05) if marked else []:
        corner, width = (x + column * side, y + 1.2 - (row + 1) * side), 2.2 * attention[row, column]
        axes.add_patch(Rectangle(corner, side, side, facecolor="none", edgecolor=INK, linewidth=width))


def radiograph(axes: Axes, x: float, y: float) -> None:
    """Draw two lungs, a heart and a lesion, side 1.2."""
    v, u = np.mgrid[0:1:96j, 0:1:96j]
    picture = np.full(u.shape, 0.62)
    for centre in (0.29, 0.71):
        picture -= 0.5 * np.exp(-(((u - centre) / 0.15) ** 4) - ((v - 0.5) / 0.34) ** 4)
    picture += 0.35 * np.exp(-(((u - 0.56) / 0.13) ** 2) - ((v - 0.66) / 0.15) ** 2)
    picture += 0.45 * np.exp(-(((u - 0.27) / 0.06) ** 2) - ((v - 0.36) / 0.06) ** 2)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(x, x + 1.2, y, y + 1.2), zorder=1)


def draw(path: str) -> None:
    """Draw hospitals and server on the left, one image on the right."""
    plt.rcParams["svg.hashsalt"] = "crow-mil"
    figure, axes = plt.subplots(figsize=(13, 5.4))
    axes.set_xlim(0, 13)
    axes.set_ylim(0, 5.4)
    axes.set_aspect("equal")
    axes.axis("off")
    span = 3 * WIDTH + 2 * GAP
    box(
        axes,
        0.1,
        4.45,
        span,
        0.75,
        "server: trunk  w ← Σ pₖ wₖ      pₖ ∝ contrast of the labels, to the power τ",
        SHARED,
        10,
    )
    for k, (name, own) in enumerate(HOSPITALS.items()):
        x = 0.1 + k * (WIDTH + GAP)
        hospital(axes, x, name, own)
        arrow(axes, (x + WIDTH / 2, 3.45), (x + WIDTH / 2, 4.4), both=True)
        axes.text(x + WIDTH / 2 + 0.1, 3.9, "trunk", fontsize=8.5, va="center", color=INK)
    left, y = 7.55, 3.6
    rng = np.random.default_rng(3)
    heat = 0.25 * rng.random((8, 8))
    heat[2:4, 1:4] += np.array([[0.55, 0.7, 0.35], [0.5, 0.65, 0.3]])
    axes.text(left + 2.65, 5.2, "one image", ha="center", va="center", fontsize=10, fontweight="bold", color=INK)
    radiograph(axes, left, y)
    arrow(axes, (left + 1.25, y + 0.6), (left + 1.95, y + 0.6))
    axes.text(left + 1.6, y + 0.75, "trunk", ha="center", fontsize=8.5, color=INK)
    cells(axes, left + 2.0, y, heat, marked=False)
    arrow(axes, (left + 3.25, y + 0.6), (left + 3.95, y + 0.6))
    axes.text(left + 3.6, y + 0.75, "row c", ha="center", fontsize=8.5, color=INK)
    cells(axes, left + 4.0, y, heat, marked=True)
    for k, text in enumerate(("radiograph", "features of cells", "sᵢ, framed by aᵢ")):
        axes.text(left + 0.6 + 2 * k, y - 0.18, text, ha="center", va="center", fontsize=8.5, color=INK)
    arrow(axes, (left + 4.6, y - 0.35), (left + 4.6, 2.7))
    box(axes, left + 3.45, 2.05, 1.9, 0.6, "s = Σ aᵢ sᵢ; map:\naᵢ σ(sᵢ) / max a", EMPTY)
    arrow(axes, (left + 3.4, 2.35), (left + 2.75, 2.35))
    box(axes, left, 2.05, 2.7, 0.6, "masked cross-entropy of s + o,\no = logit π(here) − logit π(all)", EMPTY)
    legend = {
        SHARED: "shared: averaged over the hospitals every round",
        STATISTICS: "own: statistics of normalization, as scanners differ",
        OWN: "own: rows of the findings that the hospital labels itself",
        EMPTY: "not labelled: rows of the hospitals that the image looks like",
    }
    for k, (colour, text) in enumerate(legend.items()):
        box(axes, left, 1.4 - 0.43 * k, 0.35, 0.28, "", colour)
        axes.text(left + 0.5, 1.54 - 0.43 * k, text, va="center", fontsize=9, color=INK)
    metadata = {"Date": None} if path.endswith(".svg") else None  # the same bytes every time
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05, facecolor="white", metadata=metadata)


if __name__ == "__main__":
    draw(sys.argv[1])
