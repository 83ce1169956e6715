"""Whether long videos stay where the generator knows w: a table of a report, of the paper's recursion and of held walks."""

from torch import Tensor

from mvgan.config import InputError
from mvgan.report import markup
from mvgan.sample import Generator


VIDEOS, FRAMES = 4, 1000
"""Walks that are measured, and their length; no frame is made of them."""

WALKS = {"the paper's recursion": False, "held (generate --hold)": True}
"""Those of a report, and whether each is held."""


def drift_table(generator: Generator, num_frames: int = FRAMES) -> str:
    """The table, as HTML, with a notice in place of what this generator does not have."""
    found: dict[str, Tensor] = {}
    body = ""
    for name, hold in WALKS.items():
        try:
            found[name] = generator.drift(range(VIDEOS), num_frames, hold=hold)
        except InputError as error:
            body += markup.notice(f"Long videos, {name}: {error}.")
    if not found:
        return body
    most = generator.distribution.quantile(0.99)
    caption = (
        f"How far w goes in long videos: distance from what the mapping network gives (Mahalanobis, shrunk covariance, over the root of "
        f"w's dimension) over {VIDEOS} videos of {num_frames:,} frames, truncation 1. Of mapped w 99 of 100 are within {most:.3f}."
    )
    return markup.grid_table(["", *found], _rows(found, generator.run.video.num_frames, most), caption) + body


def _rows(found: dict[str, Tensor], clip: int, most: float) -> list[list[object]]:
    """What is said of the distances [videos, frames] of each walk."""
    share = {name: float((distances > most).double().mean()) for name, distances in found.items()}
    return [
        [f"median of the first {clip} frames, as in training", *(f"{float(d[:, :clip].median()):.3f}" for d in found.values())],
        ["median of all frames", *(f"{float(d.median()):.3f}" for d in found.values())],
        ["the most", *(f"{float(d.max()):.3f}" for d in found.values())],
        [f"frames beyond {most:.3f}", *(f"{value:.1%}" for value in share.values())],
    ]
