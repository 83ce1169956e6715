"""Benchmark `jacobian`: Grams of both frames by forward mode, against the reverse mode of the authors' released code.

The released code calls `torch.autograd.functional.jacobian` on the grey means of both frames, each of a synthesis of its own: a
reverse pass for every pixel of them. Of these rows only as many are computed as a turn has time for, and the time is scaled to
all: a Gram counts as all rows. What is left out there is in the rival's favour: the two forward passes, and J^T J. Both sides use
mvgan's networks with fixed noise.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from mvgan.bench.harness import Benchmark, Ratio, Side
from mvgan.config import Codes, Network, Run
from mvgan.motion.jacobian import Synthesize, pair_grams
from mvgan.nets.generator import Generator
from mvgan.train.codes import chunk_of, synthesize


ROWS_A_STEP = 8
"""Rows between two looks at the clock."""


@dataclass(frozen=True)
class Jacobian:
    """What is measured: an untrained generator of `resolution`, on `device`."""

    resolution: int
    device: str
    channel_base: int
    channel_max: int
    w_dim: int = 512

    @property
    def rows(self) -> int:
        """Rows of the released Jacobian: grey pixels of both frames."""
        return 2 * self.resolution**2

    def run(self) -> Run:
        """Its settings."""
        network = Network(z_dim=self.w_dim, w_dim=self.w_dim, channel_base=self.channel_base, channel_max=self.channel_max)
        return Run(resolution=self.resolution, network=network, codes=Codes())

    def generator(self) -> tuple[Generator, Tensor]:
        """The generator, the same in every process, and a latent w [w_dim]."""
        torch.set_num_threads(1)
        torch.manual_seed(0)
        generator = Generator(self.run().network, self.resolution).requires_grad_(False)
        w = generator.mapping(torch.randn(1, self.w_dim))[0]
        return generator.to(self.device), w.to(self.device)


def benchmark(measured: Jacobian) -> Benchmark:
    """On one core or one GPU. `forward` are as many plain forward passes as w has dimensions; `gram_error` is that of a Gram in
    float32 against float64, relative, by the Frobenius norm."""
    print(
        f"jacobian: a Gram in float64, then the sides; of the {measured.rows:,} rows of released as many as a turn has time for", flush=True
    )
    sides = (
        Side("mvgan", grams, (measured, True)),
        Side("released", released, (measured,)),
        Side("mvgan RGB", grams, (measured, False)),
        Side("forward", forward, (measured,)),
    )
    by = "core" if measured.device == "cpu" else "clock"
    pairs = ("mvgan", "released"), ("mvgan RGB", "released"), ("forward", "mvgan"), ("forward", "mvgan RGB")
    ratios = tuple(Ratio(fast, slow, by) for fast, slow in pairs)
    about = asdict(measured) | {"rows": measured.rows, "gram_error": gram_error(measured)}
    return Benchmark("jacobian", "rows", sides, ratios, about)


def gram_error(measured: Jacobian) -> float:
    """|G - G64| / |G64| of the Grams of both frames in RGB, of which G64 is taken in float64 with the same weights."""
    generator, w = measured.generator()
    chunk = chunk_of(measured.run(), w.device)
    single = pair_grams(functools.partial(synthesize, generator), w, chunk=chunk)
    double = pair_grams(functools.partial(synthesize, generator.double()), w.double(), chunk=chunk)
    return float((single - double).norm() / double.norm())


def grams(measured: Jacobian, grey: bool) -> Iterator[int]:
    """Grams as stage 2 takes them; each counts as all rows of the released Jacobian."""
    generator, w = measured.generator()
    frames, chunk = functools.partial(synthesize, generator), chunk_of(measured.run(), w.device)
    few = torch.eye(measured.w_dim, device=w.device)[:chunk]
    pair_grams(lambda u: frames(w + u @ few), w.new_zeros(len(few)), chunk=chunk, grey=grey)
    yield 0
    while True:
        _wait(pair_grams(frames, w, chunk=chunk, grey=grey))
        yield measured.rows


def forward(measured: Jacobian) -> Iterator[int]:
    """Plain forward passes, a batch at a time; as many as w has dimensions count as all rows."""
    generator, w = measured.generator()
    batch = forward_batch(measured)
    while True:
        with torch.no_grad():
            _wait(synthesize(generator, w.expand(batch, -1)))
        yield measured.rows * batch // measured.w_dim


def forward_batch(measured: Jacobian) -> int:
    """The largest power of two that divides w_dim among those that Grams may take at once."""
    return math.gcd(measured.w_dim, 2 ** int(math.log2(chunk_of(measured.run(), torch.device(measured.device)))))


def released(measured: Jacobian) -> Iterator[int]:
    """Rows of the released Jacobian, spread over both frames: what `torch.autograd.functional.jacobian` does for each."""
    generator, w = measured.generator()
    point, outputs = graph(functools.partial(synthesize, generator), w)
    number = 0
    while True:
        for _ in range(ROWS_A_STEP):
            # A step by the golden ratio visits the rows evenly, however many a turn has time for.
            last = row(point, outputs, int(number * 0.6180339887498949 * measured.rows) % measured.rows)
            number += 1
        _wait(last)
        yield ROWS_A_STEP


def graph(frames: Synthesize, w: Tensor) -> tuple[Tensor, Tensor]:
    """`w` [w_dim] as a leaf, and what the released code takes the Jacobian of: grey frames [2, h, w], each of its own synthesis."""
    point = w.detach().clone().requires_grad_()
    return point, torch.stack([frames(point[None])[0, frame].mean(0) for frame in (0, 1)])


def row(point: Tensor, outputs: Tensor, index: int) -> Tensor:
    """Row `index` of the Jacobian [w_dim] by a reverse pass, as `torch.autograd.functional.jacobian` takes it."""
    gradient: Tensor = torch.autograd.grad((outputs.reshape(-1)[index],), (point,), retain_graph=True)[0]
    return gradient


def _wait(result: Tensor) -> None:
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
