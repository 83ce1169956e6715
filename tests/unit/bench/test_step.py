"""The sides of the benchmark of a training step: they compute the same, and a cycle holds all phases at their shares."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jobs import bench as verb
from mvgan.bench import step
from mvgan.bench.step import Step
from mvgan.nets.ops import modulated_conv2d
from mvgan.train.pairs import PairStage
from tests.unit.jobs.test_cli import refused


SMALL = Step(8, "cpu", 64, 16, 8)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("kernel", "up"), [(3, False), (3, True), (1, False)])
def test_grouped_convolutions_are_the_same_function(demodulate: bool, kernel: int, up: bool) -> None:
    """In float64; `modulated_conv2d` is tested against loops elsewhere."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, styles = normal(3, 5, 6, 6), normal(4, 5, kernel, kernel), 1 + 0.5 * normal(3, 5)
    found, expected = (f(x, weight, styles, demodulate=demodulate, up=up, gain=1.5) for f in (step.grouped_conv2d, modulated_conv2d))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_cycles_hold_all_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of each phase first, then path length in every fourth and R1 in every sixteenth step, as the settings say."""
    done: list[str] = []

    def counted(stage: PairStage, batch: Tensor, progress: object) -> None:
        index = progress.images // stage.run.pairs.batch  # type: ignore[attr-defined]
        done.append(f"{'p' * (index % stage.run.pairs.pl_every == 0)}{'r' * (index % stage.run.pairs.r1_every == 0)}")

    monkeypatch.setattr(PairStage, "step", counted)
    cycles = step.training(SMALL, "fp32")
    assert next(cycles) == 8 and done == ["pr"]
    assert [next(cycles), next(cycles)] == [128, 128]
    for cycle in (done[1:17], done[17:]):
        assert sorted(cycle) == [""] * 12 + ["p"] * 3 + ["pr"]


SIDES = f"""
import json, torch
import torch.nn.functional as F
from mvgan.bench import step

seen = set()
plain = F.conv2d

def conv2d(x, weight, *others, **options):
    seen.add((options.get("groups", 1), x.shape[1], x.is_contiguous()))
    return plain(x, weight, *others, **options)

F.conv2d = conv2d
counts = []
for make in (step.generator_alone, step.training):
    steps = make(step.{SMALL!r}, "grouped")
    counts.append(sum(next(steps) for _ in range(2)))
print(json.dumps([counts, torch.get_num_threads(), sorted(seen)]))
"""


def test_the_other_side_is_grouped_and_contiguous() -> None:
    """In a process of its own, as it changes how this one computes. What its convolutions are given says what they are."""
    done = subprocess.run([sys.executable, "-c", SIDES], capture_output=True, text=True, check=True)
    counts, threads, seen = json.loads(done.stdout)
    assert counts == [16, 8 + 128] and threads == 1
    assert all(contiguous for *_, contiguous in seen)
    grouped = [(groups, channels) for groups, channels, _ in seen if groups > 1]
    assert (8, 8 * 16) in grouped, "a kernel for each of 8 samples with 16 channels"
    assert (4, 4 * 16) in grouped, "and of 4, in path length"
    assert (8, 8) in grouped, "a filter for each of 8 channels"


@pytest.mark.parametrize(("flags", "sides"), [("avx2 avx512_bf16", 6), ("avx2 avx512f", 4)])
def test_what_is_compared(flags: str, sides: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the figure that is asked for: the whole iteration in float32; on a GPU by the clock. bf16 where the CPU has it."""
    (tmp_path / "cpuinfo").write_text(f"flags\t: {flags}\n")
    monkeypatch.setattr(step, "CPUINFO", tmp_path / "cpuinfo")
    on_cpu, on_gpu = step.benchmark(SMALL), step.benchmark(Step(8, "cuda", 64, 16, 8))
    assert on_cpu.ratios[0].name == "fp32 / grouped" and on_gpu.ratios[0].name == "fp32 / grouped by the clock"
    names = {side.name for side in on_cpu.sides}
    assert {name for ratio in on_cpu.ratios for name in (ratio.fast, ratio.slow)} == names
    assert len(names) == sides and len(on_gpu.sides) == 6


def test_mistakes_are_told_in_one_line() -> None:
    small = "--resolution", "8", "--channel-base", "64"
    assert "does not divide into groups of 4" in refused(verb.run, verb.Flags, "step", "--batch", "6", *small)
    assert "give cpu, cuda or cuda:0" in refused(verb.run, verb.Flags, "step", "--device", "meta", *small)
    assert "does not divide into groups of 4" in refused(verb.run, verb.Flags, "step", "--batch", "0", *small)
    assert "step reads no --storage" in refused(verb.run, verb.Flags, "step", "--storage", "s3://x", *small)
    assert "frechet reads no --resolution" in refused(verb.run, verb.Flags, "frechet", "--resolution", "64")
    if not torch.cuda.is_available():
        assert "device 'cuda' is not there" in refused(verb.run, verb.Flags, "step", "--device", "cuda", *small)
