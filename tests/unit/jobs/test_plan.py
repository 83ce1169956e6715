"""What --dry-run says of networks: their true sizes, without memory for them."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import nn

from jobs import _plan
from mvgan.config import Network, Run
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator
from mvgan.nets.latent import LatentGenerator
from mvgan.nets.video_discriminator import VideoDiscriminator
from mvgan.presets import PRESETS
from mvgan.validation import validate


def small(name: str) -> Run:
    """The preset with networks that a test may build."""
    run = PRESETS[name]()
    return dataclasses.replace(run, network=dataclasses.replace(run.network, channel_base=max(run.resolution, 512), channel_max=32))


@pytest.mark.parametrize("name", PRESETS)
def test_counts_are_those_of_networks_that_are_really_built(name: str) -> None:
    """Reference: the numbers in the networks that training makes."""
    run = small(name)
    for build in (
        partial(Generator, run.network, run.resolution),
        partial(Discriminator, run.network, run.resolution),
        partial(LatentGenerator, run.network.w_dim, run.video.hidden, run.num_codes, run.video.residual),
        partial(VideoDiscriminator, 8, run.video.d_scales),
    ):
        network: nn.Module = build()
        assert all(parameter.device.type == "cpu" for parameter in network.parameters())
        assert _plan.parameters(build) == sum(parameter.numel() for parameter in network.parameters())


def test_the_largest_networks_are_planned_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weights would take terabytes. Reference: nothing is allocated but on the device without numbers."""
    network = Network(z_dim=8192, w_dim=8192, mapping_layers=64, channel_base=2**23, channel_max=4096)
    run = Run(resolution=2048, network=network)
    run = validate(dataclasses.replace(run, video=dataclasses.replace(run.video, hidden=8192, d_channels=4096, d_scales=8)))
    built: list[torch.device] = []
    monkeypatch.setattr(nn.Module, "register_parameter", _noting(built))
    _plan.print_pairs(run)
    _plan.print_video(run, 10)
    assert {device.type for device in built} == {"meta"}


def _noting(built: list[torch.device]) -> object:
    plain = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            built.append(parameter.device)
        plain(module, name, parameter)

    return register
