"""Curves of what the soak has measured, as SVG in docs/pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure


PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


def means(values: Sequence[float], together: int) -> list[float]:
    """Means of `together` consecutive values; those left over at the end are left out."""
    whole = len(values) // together * together
    return np.reshape(values[:whole], (-1, together)).mean(1).tolist()


def draw_curves(
    name: str, across: str, panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], lines: Mapping[str, float]
) -> None:
    """Write `<name>.svg`: a panel each with its curves by name, and a dashed line where `lines` gives the panel one."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(4.2 * len(panels), 3.0), layout="constrained")
        for place, (title, curves) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(1, len(panels), place)
            for number, (label, (x, y)) in enumerate(curves.items()):
                # The second one may lie upon the first.
                axes.plot(x, y, label=label, linewidth=1.2, linestyle=("-", "--")[number % 2])
            if title in lines:
                axes.axhline(lines[title], color="black", linewidth=0.7, linestyle=":")
            axes.set_title(title, fontsize=9, loc="left")
            axes.set_xlabel(across)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
        figure.savefig(PICTURES / f"{name}.svg", format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
