"""docs/scaling.md: its table follows from its formula, the true networks and the measured step."""

import math
import re
from pathlib import Path

import pytest
import torch

from mvgan.config import Network
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator
from mvgan.presets import preset


DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "scaling.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| [^|]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
BUCKET, HOP_S, BATCH = 25e6, 20e-6, 32


def exchanged() -> tuple[float, float]:
    """Bytes and buckets of gradients of an average step."""
    run = preset("ucf101")
    with torch.device("meta"):
        nets = Generator(Network(), 256), Discriminator(Network(), 256)
    sizes = [4 * sum(p.numel() for p in net.parameters()) for net in nets]
    phases = 1 + 1 / run.pairs.pl_every, 1 + 1 / run.pairs.r1_every
    return sum(s * n for s, n in zip(sizes, phases, strict=True)), sum(
        math.ceil(s / BUCKET) * n for s, n in zip(sizes, phases, strict=True)
    )


def test_the_constants() -> None:
    measured = float(re.search(r"\| 256 \| 32768 \| 32 \| ([\d.]+) \|", (DOCS / "benchmarks.md").read_text())[1])  # type: ignore[index]
    size, buckets = exchanged()
    assert f"{measured:g} s a thousand pairs" in PAGE and f"here {measured * BATCH / 1000:.3f} s" in PAGE
    assert f"= {size / 1e6:.1f} MB" in PAGE and f"{buckets:.1f} on average" in PAGE


@pytest.mark.parametrize("row", ROWS)
def test_a_row(row: tuple[str, ...]) -> None:
    gpus, bandwidth, wait_ms, share, s_per_kimg = map(float, row)
    size, buckets = exchanged()
    compute = 8.8 * BATCH / 1000
    wait = 2 * (gpus - 1) / gpus * size / (bandwidth * 1e9) + buckets * 2 * math.log2(gpus) * HOP_S
    assert wait_ms == pytest.approx(1000 * wait, abs=0.05)
    assert share == pytest.approx(compute / (compute + wait), abs=5e-4)
    assert s_per_kimg == pytest.approx(1000 * (compute + wait) / (BATCH * gpus), abs=5e-4)


def test_all_sizes_are_there() -> None:
    assert re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE) == ["8", "64", "64", "512", "512"] and len(ROWS) == 5
