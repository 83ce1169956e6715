"""Benchmark `step`: training of stage 1, against the same networks as the equations of StyleGAN2's papers say.

The other side has grouped convolutions with a kernel for each sample, depthwise convolutions as low-pass filters,
contiguous layout and float32, in plain torch: the papers' own code has CUDA extensions for the filters. Both draw and
augment alike.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import mvgan.nets.fir
import mvgan.nets.generator
from mvgan.bench.harness import Benchmark, Ratio, Side
from mvgan.config import InputError, Network, Pairs, Run
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress


GROUP = 4
CPUINFO = Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True)
class Step:
    """What is measured: pairs of `resolution` in batches of `batch`, on `device`."""

    resolution: int
    device: str
    channel_base: int
    channel_max: int
    batch: int

    def run(self, precision: str) -> Run:
        """Settings of the paper, with augmentation, at its networks' width or another."""
        network = Network(channel_base=self.channel_base, channel_max=self.channel_max, precision=precision)  # type: ignore[arg-type]
        return Run(resolution=self.resolution, network=network, pairs=Pairs(batch=self.batch, group=GROUP, augment="ada"))


def benchmark(step: Step) -> Benchmark:
    """All phases at their true shares, and forward and backward of G alone, on one core or one GPU."""
    precisions = precisions_of(step.device)
    sides = {name: Side(name, training, (step, name)) for name in (*precisions, "grouped")}
    alone = {name: Side(f"G {name}", generator_alone, (step, name)) for name in (*precisions, "grouped")}
    by = "core" if step.device == "cpu" else "clock"
    ratios = [Ratio(name, "grouped", by) for name in precisions] + [Ratio(f"G {name}", "G grouped", by) for name in precisions]
    return Benchmark("step", "pairs", (*sides.values(), *alone.values()), tuple(ratios), dataclasses.asdict(step))


def precisions_of(device: str) -> tuple[str, ...]:
    """What is measured on `device`: bf16 too, but for CPUs that only emulate it, on which a step takes minutes."""
    if device == "cpu" and not {"avx512_bf16", "amx_bf16"} & set(CPUINFO.read_text().split()):
        print("step: this CPU has no bf16 of its own (avx512_bf16), so that is left out", flush=True)
        return ("fp32",)
    return ("fp32", "bf16")


def check(step: Step) -> None:
    """Raises InputError for a device that is not there, or a batch that does not divide into groups."""
    check_device(step.device)
    if step.batch < GROUP or step.batch % GROUP:
        raise InputError(f"--batch {step.batch} does not divide into groups of {GROUP}; give a multiple of {GROUP}")


def check_device(device: str) -> None:
    """Raises InputError for a device that is not there."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"--device is {device!r}; give cpu, cuda or cuda:0 and so on")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not there ({str(error).splitlines()[0]}); give --device cpu or cuda") from None


def training(step: Step, name: str) -> Iterator[int]:
    """Pairs trained on, after each cycle of all lazy phases; before that, one step with every phase warms up."""
    stage, batch = _stage(step, name)
    steps = itertools.count()
    cycle = max(stage.run.pairs.pl_every, stage.run.pairs.r1_every)
    for length in itertools.chain([1], itertools.repeat(cycle)):
        for _ in range(length):
            stage.step(batch, Progress(next(steps) * step.batch))
        _wait(stage.device)
        yield length * step.batch


def generator_alone(step: Step, name: str) -> Iterator[int]:
    """Pairs generated, with the gradients of all weights."""
    stage, _ = _stage(step, name)
    synthesis = stage.generator.synthesis
    ws = torch.randn(step.batch, synthesis.num_ws, synthesis.w_dim, device=stage.device)
    while True:
        stage.generator.zero_grad()
        synthesis(ws).square().mean().backward()
        _wait(stage.device)
        yield step.batch


def _stage(step: Step, name: str) -> tuple[PairStage, Tensor]:
    """The stage, in a process of its own, and a batch of random pairs."""
    torch.set_num_threads(1)
    if name == "grouped":
        as_in_the_papers()
    stage = PairStage(step.run("fp32" if name == "grouped" else name), Ranks(step.batch // GROUP, GROUP), torch.device(step.device))
    if name == "grouped":
        make_contiguous(stage)
    shape = (step.batch, 2, 3, step.resolution, step.resolution)
    return stage, torch.randint(0, 256, shape, dtype=torch.uint8, device=stage.device)


def as_in_the_papers() -> None:
    """Have this process compute modulated convolutions and filters word for word. There is no way back."""
    mvgan.nets.generator.modulated_conv2d = grouped_conv2d  # type: ignore[attr-defined]
    mvgan.nets.fir._by_products = lambda x: False


def make_contiguous(stage: PairStage) -> None:
    """Weights, and what D is given, in torch's usual layout, which convolutions and filters then keep."""
    for parameter in (*stage.generator.parameters(), *stage.discriminator.parameters()):
        parameter.data = parameter.data.contiguous()
    stage.discriminator.from_frames.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


def grouped_conv2d(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, up: bool = False, gain: float = 1.0) -> Tensor:
    """What `modulated_conv2d` computes, as one grouped convolution with a kernel for each sample (StyleGAN2, Eq. 1-3)."""
    n, c_in, h, w = x.shape
    c_out, k = weight.shape[0], weight.shape[2]
    kernels = weight * styles[:, None, :, None, None]
    if demodulate:
        kernels = kernels * (gain * (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt())
    convolve: Callable[..., Tensor] = functools.partial(F.conv2d, padding=k // 2)
    if up:
        convolve, kernels = functools.partial(F.conv_transpose2d, stride=2), kernels.transpose(1, 2)
    y = convolve(x.reshape(1, n * c_in, h, w), kernels.flatten(0, 1), groups=n)
    y = y.reshape(n, c_out, *y.shape[2:])
    return mvgan.nets.fir.low_pass(y, padding=1, gain=4.0) if up else y


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
