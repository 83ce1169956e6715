"""Noise injection: random in training of stage 1, one map per clip in stage 3 and in videos; and what the phases draw is normal."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from mvgan.config import Network, Pairs, Run, Video
from mvgan.nets.generator import Generator, Noise
from mvgan.nets.latent import LatentGenerator
from mvgan.sample import CHUNK
from mvgan.sample import Generator as Sampler
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress
from mvgan.train.video import VideoStage


RUN = Run(
    resolution=8,
    num_codes=2,
    network=Network(z_dim=32, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8, precision="fp32"),
    pairs=Pairs(batch=8, group=4, pl_every=1, r1_gamma=0.0),
    video=Video(batch=8, group=4, num_frames=4, hidden=8, g_steps=2, d_channels=2, d_scales=1),
)
CPU = torch.device("cpu")
CODES = torch.eye(8)[:4].reshape(2, 2, 8).contiguous()


def maps_of(noise: Noise | None, shapes: Mapping[int, int]) -> dict[int, Tensor]:
    assert noise is not None, "the fixed maps were used"
    return {layer: noise(layer, resolution) for layer, resolution in shapes.items()}


def pair_stage(batch: int = 8) -> PairStage:
    return PairStage(dataclasses.replace(RUN, pairs=dataclasses.replace(RUN.pairs, batch=batch)), Ranks(batch // 4, 4), CPU)


def frames(*shape: int) -> Tensor:
    return torch.randint(0, 256, (*shape, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def distinct(rows: Tensor) -> bool:
    """Whether no two rows of [n, ...] are alike."""
    return len(rows.flatten(1).unique(dim=0)) == len(rows)


def assert_normal(values: Tensor) -> None:
    """Reference: the distribution function of N(0, 1), by the Kolmogorov-Smirnov distance."""
    assert kstest(values.flatten().numpy(), "norm").pvalue > 0.01


def test_stage_1_trains_on_noise_of_its_own_for_each_sample_phase_and_step() -> None:
    stage = pair_stage()
    shapes = stage.generator.synthesis.noise_shapes()
    given: list[dict[int, Tensor]] = []
    stage.generator.synthesis.register_forward_pre_hook(lambda _, args: given.append(maps_of(args[1], shapes)))
    for step in range(2):
        stage.step(frames(8, 2), Progress(8 * step))
    assert [len(maps[0]) for maps in given] == [8, 4, 8, 8, 4, 8], "G, path length and D, twice"
    for layer, resolution in shapes.items():
        rows = torch.cat([maps[layer] for maps in given])
        assert rows.shape == (40, 1, resolution, resolution) and distinct(rows)
        assert_normal(rows)


def test_latents_and_directions_of_stage_1_are_normal() -> None:
    """z and the z to mix in of G, path length and D, and y of path length (StyleGAN2, Eq. 4), drawn anew in each phase and step."""
    stage = pair_stage(batch=64)
    latents: list[Tensor] = []
    directions: list[Tensor] = []
    stage.generator.mapping.register_forward_pre_hook(lambda _, args: latents.append(args[0]))
    stage._path_length.register_forward_pre_hook(lambda _, args: directions.append(args[4]))
    for step in range(2):
        stage.step(frames(64, 2), Progress(64 * step))
    assert [len(z) for z in latents] == [128, 64, 128] * 2 and distinct(torch.cat(latents))
    assert [tuple(y.shape) for y in directions] == [(32, 2, 3, 8, 8)] * 2 and distinct(torch.cat(directions))
    for drawn in latents + directions:
        assert_normal(drawn)


def test_what_is_not_normal_would_show() -> None:
    """A negative control: uniform as it comes, uniform with a variance of 1, a deviation that is too small, nothing drawn."""
    draw = torch.Generator().manual_seed(0)
    uniform, normal = torch.rand(4096, generator=draw), torch.randn(4096, generator=draw)
    assert_normal(normal)
    for values in (uniform, 12**0.5 * (uniform - 0.5), 0.8 * normal, torch.zeros(4096)):
        with pytest.raises(AssertionError):
            assert_normal(values)


def test_stage_3_trains_on_one_map_per_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for all frames of a clip, another for each clip, phase and step."""
    torch.manual_seed(0)
    stage = VideoStage(RUN, Ranks(2, 4), CPU, Generator(RUN.network, 8), CODES, spread=torch.eye(8, dtype=torch.float64))
    shapes, given = stage.noise_shapes, []
    render = stage.render

    def seen(ws: Tensor, noise: Noise | None) -> Tensor:
        given.append(maps_of(noise, shapes))
        return render(ws, noise)

    monkeypatch.setattr(stage, "render", seen)
    for step in range(2):
        stage.step(frames(8, 4), Progress(8 * step))
    assert len(given) == 6, "once for the discriminators and twice for the latent code generator, in each step"
    for layer in shapes:
        clips = torch.cat([maps[layer] for maps in given]).unflatten(0, (48, 4))
        assert torch.equal(clips, clips[:, :1].expand_as(clips)) and distinct(clips[:, 0])
        assert_normal(clips[:, 0])


def test_a_video_has_one_map_per_layer() -> None:
    """In all pieces and frames of it; that of another seed is another."""
    torch.manual_seed(0)
    pairs = Generator(RUN.network, 8)
    sampler = Sampler(RUN, 25.0, pairs, CODES, LatentGenerator(8, 8, 2, 0.1))
    shapes = pairs.synthesis.noise_shapes()
    given: list[dict[int, Tensor]] = []

    def seen(_: Any, args: tuple[Any, ...]) -> None:
        given.append(maps_of(args[1], shapes))

    pairs.synthesis.register_forward_pre_hook(seen)
    sampler.sample([3, 4], CHUNK + 2)
    assert [len(maps[0]) for maps in given] == [CHUNK, 2] * 2
    for layer in shapes:
        videos = torch.cat([maps[layer] for maps in given]).unflatten(0, (2, CHUNK + 2))
        assert torch.equal(videos, videos[:, :1].expand_as(videos)) and distinct(videos[:, 0])
