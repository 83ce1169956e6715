"""Presets: the paper's constants, and that the small ones fit together."""

import math
from pathlib import Path

import pytest
import torch

from mvgan.config import InputError
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator
from mvgan.presets import PRESETS, PROFILES, preset
from mvgan.train.session import num_shards, plan_of
from mvgan.validation import validate, validate_resources


PAPER = {"ucf101": (32, 5, 13320), "faceforensics": (16, 45, 704), "skytimelapse": (32, 20, 2376)}
"""Batch of stage 1, epochs of stage 3, videos: paper Sec. IV and Tables V and VII; batch of FaceForensics: Sec. IV-A."""


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_constants(name: str) -> None:
    """Reference: the paper, Sec. IV and VII-B, and its released code."""
    run, (batch, epochs, _) = preset(name), PAPER[name]
    assert (run.resolution, run.interval, run.num_codes, run.latents, run.stride) == (256, (4,), 30, 10, 1)
    pairs, video = run.pairs, run.video
    assert (pairs.batch, pairs.group, pairs.r1_gamma, pairs.mirror, pairs.total_kimg, pairs.lr) == (batch, 4, 1.0, True, 25000, 0.002)
    assert pairs.augment == "ada"  # Appendix VII-A
    assert (pairs.pl_weight, pairs.pl_every, pairs.r1_every, pairs.style_mixing) == (2.0, 4, 16, 0.9)
    assert (pairs.ema_kimg, pairs.ema_rampup) == (batch * 10 / 32, 0.05)
    assert run.codes.select == "best" and run.codes.lam == 1 / 60
    assert (video.num_frames, video.hidden, video.lr, video.batch, video.epochs) == (16, 512, 1e-4, 16, epochs)
    assert (video.loss, video.gp_weight, video.g_steps, video.residual) == ("ralsgan", 10.0, 5, 0.2)
    assert (video.d_channels, video.d_scales) == (64, 2)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_networks(name: str) -> None:
    """Reference: 58.9 M parameters and 9,237 for the second frame: 30,043,191 and 28,864,513."""
    run = preset(name)
    with torch.device("meta"):
        nets = Generator(run.network, run.resolution), Discriminator(run.network, run.resolution)
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [30_043_191, 28_864_513]


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_number_of_steps(name: str) -> None:
    """Reference: epochs of one clip per video at a batch of 16. The released loop drops an epoch's last batch; ours none."""
    run, (_, epochs, videos) = preset(name), PAPER[name]
    plan = plan_of(run, "video", videos)
    assert plan.end // 16 == math.ceil(epochs * videos / 16)
    released = {"ucf101": 4160, "faceforensics": 1980, "skytimelapse": 2960}[name]
    assert abs(plan.end // 16 - released) <= epochs
    assert plan_of(run, "pairs", videos).end == 25_000_000


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_together(name: str) -> None:
    """Valid; two workers can share the batch; commits, ticks and measures come within the run."""
    run = validate(preset(name))
    for stage in ("pairs", "video"):
        plan = plan_of(run, stage, PAPER[name][2] if name in PAPER else 240)
        assert num_shards(run, stage) >= 2
        assert plan.batch <= plan.tick <= plan.end and plan.commit >= plan.batch
    assert run.pairs.evaluations >= 1


@pytest.mark.parametrize("name", PRESETS)
def test_presets_explain_themselves(name: str) -> None:
    """The docstring gives the command."""
    commands = {"demo": "`make demo", "smoke": "`make demo", "tiny": "`python -m jobs.reproduce table5 --scale tiny "}
    command = commands.get(name, f"`python -m jobs.pipeline --preset {name} ")
    assert command in (PRESETS[name].__doc__ or "")


def test_unknown_preset() -> None:
    with pytest.raises(
        InputError, match="unknown preset 'big'; choose one of demo, smoke, tiny, gpu64, gpu128, ucf101, faceforensics, skytimelapse"
    ):
        preset("big")


@pytest.mark.parametrize("page", ["README.md", "docs/demo.md"])
def test_figures_of_the_demo_are_those_of_its_preset(page: str) -> None:
    """A preset that changes takes its measured figures along, where the change shows in quality."""
    text, run = Path(__file__).parents[2].joinpath(page).read_text(), preset("demo")
    assert f"{run.pairs.total_kimg:g} kimg of stage 1 and {run.video.total_clips:,} clips of stage 3" in " ".join(text.split())
    assert f"steps of {run.video.residual:g} along the codes" in " ".join(text.split())


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_hold(name: str) -> None:
    assert validate_resources(PROFILES[name]) == PROFILES[name]
