"""The tables of the paper as sweeps: the rows to train, the published figures, and those of others, which are quoted and not rerun.

Zhu, Ma, Chen, Yuan: MotionVideoGAN, IEEE TMM 2023. All at 256 px, on four RTX 3090.
"""

from dataclasses import dataclass

from mvgan.config import Run
from mvgan.presets import preset
from mvgan.sweep import Axes, Case, Sweep, distinct_generators
from mvgan.train.session import plan_of


OURS = "MotionVideoGAN"

S_PER_KIMG = 8.8
"""Seconds of one H200 for a thousand pairs at 256 px with the paper's networks (docs/benchmarks.md)."""


@dataclass(frozen=True)
class Dataset:
    """One of the paper's sets of videos (Table VII)."""

    preset: str
    name: str
    num_videos: int
    max_length: int
    mean_length: float
    variance: float


UCF101 = Dataset("ucf101", "UCF101, train and test splits", 13320, 1776, 186.50, 9556.995)
FACEFORENSICS = Dataset("faceforensics", "FaceForensics, train split", 704, 1957, 517.07, 46867.212)
SKYTIMELAPSE = Dataset("skytimelapse", "SkyTimelapse, train split", 2376, 266309, 493.01, 30794675.650)
DATASETS = (UCF101, FACEFORENSICS, SKYTIMELAPSE)


@dataclass(frozen=True)
class Table:
    """What is trained for a table, and what the paper gives for it."""

    source: str
    """Where in the paper it is."""
    title: str
    dataset: Dataset
    figure: str
    """What the published figures are."""
    cases: tuple[Case, ...]
    published: dict[str, str]
    """By case."""
    shows: str
    """What the table is there to show."""
    quoted: tuple[tuple[str, str], ...] = ()
    """Rows of others, as the paper has them."""
    last: str = "video"
    """The stage that its rows end with: video, or pairs."""
    pictures: str = ""
    """The paper's figures that are grids of what its rows generate."""
    long_pictures: str = ""
    """And that of long videos."""
    edits: str = ""
    """And that of what motion codes do."""

    def sweep(self, base: Run, data: str, axes: Axes | None = None) -> Sweep:
        """Its rows, with the settings `base` and for each value of `axes`, on the shards at `data`."""
        return Sweep(base, axes or {}, data, self.cases, self.last)

    def gpu_hours(self, data: str) -> float:
        """Hours of one H200 for stage 1 of the whole table at the paper's scale, by the rate that was measured there."""
        trials = self.sweep(preset(self.dataset.preset), data).trials()
        pairs = sum(plan_of(trial.run, "pairs", self.dataset.num_videos).end for trial in distinct_generators(trials).values())
        return pairs / 1000 * S_PER_KIMG / 3600


def _others(figures: str) -> tuple[tuple[str, str], ...]:
    names = ("MoCoGAN (CVPR 2018)", "VideoGPT", "DIGAN (ICLR 2022)", "StyleGAN-V (CVPR 2022)", "MoCoGAN-HD (ICLR 2021)")
    return tuple(zip(names, figures.split("; "), strict=True))


def _of_frames(source: str, figure: str, dataset: Dataset, single: str, pairs: str, pictures: str = "") -> Table:
    """Tables I and VI: the same rows, of which the latter gives the length of training too."""
    return Table(
        source, f"Frames of MotionStyleGAN beside StyleGAN2's, on {dataset.name}", dataset, figure,
        (Case("StyleGAN2", {"network.frames": 1}), Case("MotionStyleGAN", {"network.frames": 2})),
        {"StyleGAN2": single, "MotionStyleGAN": pairs},
        "That frames of pairs are at least as good as frames generated alone. The paper's StyleGAN2 is that of MoCoGAN-HD.",
        last="pairs", pictures=pictures,
    )  # fmt: skip


TABLES = {
    "table1-ucf101": _of_frames("Table I", "FID", UCF101, "45.63", "37.70"),
    "table1-faceforensics": _of_frames("Table I", "FID", FACEFORENSICS, "10.99", "9.65", "Figure 5"),
    "table1-skytimelapse": _of_frames("Table I", "FID", SKYTIMELAPSE, "10.80", "10.48", "Figure 6"),
    "table6-ucf101": _of_frames("Table VI", "FID; kimg", UCF101, "45.63; 6935", "37.70; 7680"),
    "table6-faceforensics": _of_frames("Table VI", "FID; kimg", FACEFORENSICS, "10.99; 8765", "9.65; 4800"),
    "table6-skytimelapse": _of_frames("Table VI", "FID; kimg", SKYTIMELAPSE, "10.80; 12633", "10.48; 8600"),
    "table2": Table(
        "Table II", "Video generation on UCF101", UCF101, "FVD; IS", (Case(OURS, {}),), {OURS: "1031.4; 25.88 ± 0.39"},
        "That videos of many classes keep their content.",
        _others("2886.9, 10.09 ± 0.30; 2880.6, 12.61 ± 0.33; 1630.2, 23.16 ± 1.13; 1431.0, 23.94 ± 0.73; 1729.6, 23.39 ± 1.48"),
        pictures="Figures 8 and 17",
    ),
    "table3-faceforensics": Table(
        "Table III", "Video generation on FaceForensics", FACEFORENSICS, "FVD", (Case(OURS, {}),), {OURS: "108.8"},
        "How far videos of faces are from real ones.", _others("124.7; 185.9; 62.5; 47.4; 111.8"),
        pictures="Figures 9 and 18", long_pictures="Figure 11", edits="Figure 7",
    ),
    "table3-skytimelapse": Table(
        "Table III", "Video generation on SkyTimelapse", SKYTIMELAPSE, "FVD", (Case(OURS, {}),), {OURS: "157.9"},
        "How far videos of skies are from real ones.", _others("206.6; 222.7; 83.1; 79.5; 164.1"),
        pictures="Figures 10 and 19",
    ),
    "table4": Table(
        "Table IV", "Ablation of the discriminators", FACEFORENSICS, "FVD",
        (
            Case("TVD", {"video.d_v": True, "video.d_r": False, "video.d_i": False}),
            Case("BVD", {"video.d_v": False, "video.d_r": True, "video.d_i": False}),
            Case("BVD+TVD+ID", {"video.d_v": True, "video.d_r": True, "video.d_i": True}),
            Case("BVD+TVD (ours)", {"video.d_v": True, "video.d_r": True, "video.d_i": False}),
        ),
        {"TVD": "143.7", "BVD": "149.4", "BVD+TVD+ID": "112.6", "BVD+TVD (ours)": "108.8"},
        "That both video discriminators are needed (TVD is D_V, BVD is D_R) and an image discriminator (ID, D_I) is not.",
    ),
    "table5": Table(
        "Table V", "Ablation of the frame interval k", FACEFORENSICS, "FVD",
        tuple(Case(f"k = {k}", {"interval": [k]}) for k in (2, 3, 4, 5)),
        {"k = 2": "190.5", "k = 3": "134.6", "k = 4": "108.8", "k = 5": "160.3"},
        "That pairs too near to each other teach no motion, and pairs too far apart no continuous one.",
    ),
    "random-codes": Table(
        "Sec. IV-D", "Random directions in place of motion codes", UCF101, "FVD",
        (Case("motion codes", {"codes.method": "generalized"}), Case("random codes", {"codes.method": "random"})),
        {"motion codes": "1031.4", "random codes": "1578.3"},
        "That content is kept by the codes.", pictures="Figure 12",
    ),
    "mixed-k": Table(
        "Sec. V", "Pairs of several intervals", FACEFORENSICS, "FVD",
        (Case("k = 4", {"interval": [4]}), Case("k = 2, 3, 4", {"interval": [2, 3, 4]})),
        {"k = 4": "108.8", "k = 2, 3, 4": "97.4"},
        "That pairs of shorter intervals beside those of k = 4 make motion more continuous.", pictures="Figure 13",
    ),
    "convergence": Table(
        "Sec. IV-C, Fast Convergence", "Training of stage 3", FACEFORENSICS, "FVD", (Case(OURS, {"video.evaluations": 10}),),
        {OURS: "108.8 after 45 epochs"}, "How soon stage 3 converges, by the curve over training.",
        (("MoCoGAN-HD (ICLR 2021)", "111.8 after 800 epochs"),),
    ),
}  # fmt: skip
"""By their names on the command line."""
