"""Content and motion of clips, in figures that need no network.

With the frames x_1..x_T of a video on [-1, 1] and |.|^2 the mean square over pixels and colours:

- motion: the mean over t of |x_t+1 - x_t|^2.
- drift of content (within): |a - b|^2 of the mean frames a and b of the two halves of the video.
- diversity (between): the mean of |m - n|^2 over all pairs of different videos, m and n being the mean frames of a clip of each.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance


Arrays = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ClipFigures:
    """The figures of a set of clips: motion and drift are means over clips."""

    videos: int
    motion: float
    """Mean squared difference of consecutive frames."""
    within: float
    """Mean squared difference of the mean frames of the two halves of a video."""
    between: float
    """Mean squared difference of the mean frames of two different videos."""

    @property
    def content_share(self) -> float:
        """How far the mean frame moves within a video, as a share of the distance between videos."""
        return self.within / self.between if self.between else float("inf")


class ClipSums:
    """Gathers figures clip by clip, so that memory holds two numbers a clip and one frame; sums of parts can be merged."""

    def __init__(self, arrays: Arrays | None = None) -> None:
        """arrays: what `arrays` of another one gave."""
        none, zero = np.zeros(0), np.zeros(())
        self._arrays = arrays or {"motion": none, "within": none, "mean": zero, "square": zero, "videos": zero}

    @property
    def arrays(self) -> Arrays:
        """`motion` and `within` of each clip [n]; over a clip each of so many `videos` sums of mean frames [3, h, w] and of squares."""
        return self._arrays

    def add(self, clip: np.ndarray, new_video: bool = True) -> None:
        """Take in one clip uint8 [t, 3, h, w], t >= 2. The middle frame of an odd number belongs to the second half.

        new_video: whether no clip of its video was added before; the others say nothing of what lies between videos.
        """
        if clip.ndim != 4 or len(clip) < 2 or clip.dtype != np.uint8:
            raise ValueError(f"expected a clip uint8 [t, 3, h, w] of 2 frames or more, got {clip.dtype} {clip.shape}")
        halves, half, motion, last = np.zeros((2, *clip.shape[1:])), len(clip) // 2, 0.0, None
        for number, levels in enumerate(clip):  # frame by frame: long clips would fill gigabytes in float64
            frame = levels / 127.5 - 1
            halves[int(number >= half)] += frame
            motion += 0.0 if last is None else float(np.square(frame - last).mean())
            last = frame
        within = np.square(halves[0] / half - halves[1] / (len(clip) - half)).mean()
        mean = halves.sum(0) / len(clip) * new_video
        self.merge(
            ClipSums(
                {
                    "motion": np.array([motion / (len(clip) - 1)]), "within": within[None], "mean": mean, "square": np.square(mean).mean(),
                    "videos": np.array(float(new_video)),
                }
            )
        )  # fmt: skip

    def merge(self, other: "ClipSums") -> None:
        """Take in the clips of another one, of the same size."""
        ours, theirs = self._arrays, other.arrays
        joined = {key: np.concatenate([ours[key], theirs[key]]) for key in ("motion", "within")}
        self._arrays = joined | {key: ours[key] + theirs[key] for key in ("mean", "square", "videos")}

    def figures(self) -> ClipFigures:
        """The figures of all clips so far, at least one; nothing lies between videos where there is one."""
        n = int(self._arrays["videos"])
        if not n:
            raise ValueError("no clip was added")
        # The mean squared difference of two draws is twice their variance.
        squares = float(self._arrays["square"])
        spread = squares - float(np.square(self._arrays["mean"] / n).mean()) * n
        # It is the difference of sums: what rounding can make of them counts as nothing.
        between = 2 * spread / (n - 1) if n > 1 and spread > n * np.finfo(float).eps * squares else 0.0
        return ClipFigures(n, float(self._arrays["motion"].mean()), float(self._arrays["within"].mean()), between)


def compare(generated: ClipSums, real: ClipSums) -> dict[str, Any]:
    """The figures of both sets, with ratios generated over real.

    motion_distance: Wasserstein-1 distance between the distributions of motion over videos, over the mean of the real ones: 0 of
    equal ones, and more than |motion_ratio - 1| where single videos move too much or too little.
    """
    ours, theirs = generated.figures(), real.figures()
    moved = wasserstein_distance(generated.arrays["motion"], real.arrays["motion"])
    return {
        "generated": asdict(ours),
        "real": asdict(theirs),
        "motion_ratio": _ratio(ours.motion, theirs.motion),
        "motion_distance": _ratio(float(moved), theirs.motion),
        "drift_share": _ratio(ours.within, ours.between),
        "real_drift_share": _ratio(theirs.within, theirs.between),
        "diversity_ratio": _ratio(ours.between, theirs.between),
    }


def _ratio(a: float, b: float) -> float | None:
    """None where there is nothing to divide by."""
    return a / b if b else None
