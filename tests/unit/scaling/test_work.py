"""The counted work of the networks. References: the networks themselves, and what torch dispatches when they run."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mvgan.config import Network
from mvgan.nets import fir, ops
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import HALF_RESOLUTION, Generator
from mvgan.scaling import work
from mvgan.scaling.work import discriminator_work, generator_work


BATCH = 4
SMALL = Network(mapping_layers=3, channel_base=1024, channel_max=128, noise=False, frames=1, z_dim=96, w_dim=64)
CASES = [(256, Network()), (256, Network(channel_base=16384)), (64, Network(channel_base=16384, precision="fp32")), (32, SMALL)]
MOVES = ("reshape", "_unsafe_view", "detach", "empty")


class Touched(TorchDispatchMode):
    """Adds up the bytes of all maps of the batch that operations take and give, those left out that only name memory anew."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in MOVES:
            maps = [x for x in tree_leaves((args, found)) if isinstance(x, torch.Tensor) and x.ndim >= 3 and x.shape[0] == BATCH]
            self.num_bytes += sum(x.numel() * x.element_size() for x in maps)
        return found


def networks(network: Network, resolution: int) -> tuple[Generator, Discriminator]:
    with torch.device("meta"):
        return Generator(network, resolution), Discriminator(network, resolution)


def forward(network: Network, resolution: int, mode: Any, which: int) -> None:
    """G or D on the device without memory."""
    nets = networks(network, resolution)
    inputs = torch.empty(BATCH, network.z_dim, device="meta"), torch.empty(BATCH, network.frames, 3, resolution, resolution, device="meta")
    with torch.no_grad(), mode:
        nets[0](inputs[0]) if which == 0 else nets[1](inputs[1], BATCH)


@pytest.mark.parametrize(("resolution", "network"), CASES)
def test_parameters_are_those_of_the_networks(resolution: int, network: Network) -> None:
    counted = [count(network, resolution).parameters for count in (generator_work, discriminator_work)]
    assert counted == [sum(p.numel() for p in net.parameters()) for net in networks(network, resolution)]


@pytest.mark.parametrize(("resolution", "network"), CASES)
@pytest.mark.parametrize("which", [0, 1])
def test_multiplications_are_those_of_the_convolutions(
    resolution: int, network: Network, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0.0

    def counted(function: Any, transposed: bool) -> Any:
        def call(x: Any, weight: Any, *args: Any, groups: int = 1, **kwargs: Any) -> Any:
            nonlocal made
            y = function(x, weight, *args, groups=groups, **kwargs)
            if groups == 1:
                made += (x if transposed else y).numel() * weight[0].numel() / BATCH
            return y

        return call

    def product(x: Any, kernels: Any) -> Any:
        nonlocal made
        made += x[:, 0].numel() * kernels[0].numel() / BATCH
        return modulated_product(x, kernels)

    modulated_product = ops._modulated_product
    monkeypatch.setattr(ops, "_modulated_product", product)
    for name, transposed in (("conv2d", False), ("conv_transpose2d", True)):
        monkeypatch.setattr(ops.F, name, counted(getattr(F, name), transposed))
    forward(network, resolution, torch.no_grad(), which)
    assert (generator_work, discriminator_work)[which](network, resolution).multiplications == pytest.approx(made, rel=1e-9)


@pytest.mark.parametrize(("resolution", "network"), CASES)
@pytest.mark.parametrize("which", [0, 1])
def test_bytes_are_near_those_that_torch_dispatches(resolution: int, network: Network, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: with filters as products. Torch adds a bias within its convolution, and copies where a view will not do."""
    monkeypatch.setattr(fir, "_by_products", lambda x: True)
    touched = Touched()
    fir._band.cache_clear()
    with torch.device("meta"):
        forward(network, resolution, touched, which)
    fir._band.cache_clear()
    counted = (generator_work, discriminator_work)[which](network, resolution).num_bytes
    assert counted == pytest.approx(touched.num_bytes / BATCH, rel=0.15)


def test_precision_changes_where_the_networks_do() -> None:
    assert work.HALF_RESOLUTION == HALF_RESOLUTION
