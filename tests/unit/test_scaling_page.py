"""docs/scaling.md: its tables follow from its formula, the true networks and the measured step, and from the simulator."""

import math
import re
from pathlib import Path

import pytest
import torch

import jobs.scale
from jobs._cli import parse
from mvgan.config import Network, Pairs, Run
from mvgan.nets.discriminator import Discriminator
from mvgan.nets.generator import Generator
from mvgan.presets import preset
from mvgan.scaling.cluster import Cluster
from mvgan.scaling.exchange import Exchange
from mvgan.scaling.rates import decode_seconds, step_seconds
from mvgan.scaling.simulate import Answer, simulate


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


@pytest.mark.parametrize("row", ROWS)
def test_the_simulator_exchanges_by_the_formula(row: tuple[str, ...]) -> None:
    gpus, bandwidth, wait_ms = int(row[0]), float(row[1]), float(row[2])
    seconds = Exchange.of(preset("ucf101")).seconds(gpus, Cluster(network_gb_per_s=bandwidth))
    assert 1000 * seconds == pytest.approx(wait_ms, abs=0.05)


CASES = re.findall(r"^\| (.*?) \| ([\d.]+) \| ([\w -]+) \| ([\w -]+) (\d+) % \|$", PAGE, re.MULTILINE)
MANY = re.search(r"\*many\* is\n`(.*?)`", PAGE)[1]  # type: ignore[index]


def simulated(flags: str) -> Answer:
    """What the verb computes."""
    flags = flags.replace("*many*", MANY).replace("`", "")
    given = parse(jobs.scale.Flags, ["--preset", "ucf101", *flags.split()], "")
    return simulate(given.settings, given.resources.workers, given.cluster, given.videos)


@pytest.mark.parametrize("case", CASES)
def test_a_case(case: tuple[str, ...]) -> None:
    flags, rate, bottleneck, second, share = case
    found = simulated(flags)
    assert (f"{found.pairs_per_s:.1f}", found.bottleneck) == (rate, bottleneck)
    least, next_ = sorted(found.resources, key=lambda resource: resource.pairs_per_s)[:2]
    assert next_.name == second and 100 * least.pairs_per_s / next_.pairs_per_s == pytest.approx(float(share), abs=0.6)


def test_all_cases_are_there() -> None:
    assert len(CASES) == 8


def test_ten_petabytes() -> None:
    (flags,) = re.findall(r"half an hour \(`(.*?)`\)", PAGE)
    found = simulated(f"--workers 4096 --pairs.batch 131072 {flags}")
    said = "\n".join([*found.facts, *found.obstacles, *(resource.words for resource in found.resources)])
    assert {words.split(":")[0] for words in found.obstacles} >= {"manifests", "ingest", "start"}
    for words in (
        "60,000,000 shards of 57.1 MB", "manifest 1.15e+04 MB", "start of a decoding process: 6.03e+03 s", "hold 877 GB",
        "10,000,000 groups", "4.36e+05 core hours", "6.66 h on all cores", "5.47 of them to draw windows",
    ):  # fmt: skip
        assert words in said
    told = "60,000,000 of 57 MB", "11.5 GB", "1.7 h", "877 GB", "10,000,000 groups", "436,000 core hours", "6.7 h on 65,536", "5.5 ms"
    assert all(words in PAGE for words in told)


def test_what_is_predicted() -> None:
    """The figures of the page are those that `tests/unit/scaling/test_predictions.py` compares."""

    def steps(px: int, base: int, batch: int, precision: str = "bf16") -> float:
        run = Run(resolution=px, network=Network(channel_base=base, precision=precision))  # type: ignore[arg-type]
        return batch / step_seconds(run, batch)

    def reads(reader: str) -> float:
        return 1 / decode_seconds(Run(resolution=128), reader)

    rates = [steps(256, 16384, 32), steps(64, 16384, 64), steps(256, 32768, 32, "fp32")]
    rates += [reads(reader) for reader in ("shards", "stream", "shards, uncached", "S3, uncached")]
    rows = re.findall(r"^\| (?:H200|a core|the same), .*? \| ([\d.]+) \| ([\d.]+) \| (-?\d+) % \|$", PAGE, re.MULTILINE)
    assert [float(row[0]) for row in rows] == pytest.approx(rates, abs=0.5) and len(rows) == len(rates)
    for predicted, measured, off in rows:
        assert 100 * (float(predicted) / float(measured) - 1) == pytest.approx(float(off), abs=0.6) and abs(float(off)) <= 20
    few, usual, many = (decode_seconds(Run(resolution=64, pairs=Pairs(pairs_per_piece=pairs)), "shards") for pairs in (2, 4, 8))
    assert f"{usual / few:.2f} and {usual / many:.2f} times" in PAGE
