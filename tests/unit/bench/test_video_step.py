"""The sides of the benchmark of stage 3: they render the same frames, and a turn is whole steps."""

import subprocess
import sys

import pytest
import torch

from mvgan.bench import video_step
from mvgan.bench.video_step import VideoStep
from mvgan.config import InputError
from mvgan.nets.generator import Generator
from mvgan.train.state import Draws
from mvgan.train.video import render


SMALL = VideoStep(8, "cpu", 64, 8, 2, 4)


@pytest.mark.parametrize("first", ["latter", "former"])
def test_both_sides_render_the_same(first: video_step.Frame) -> None:
    """Also with noise, whose map is one a clip and not the same in two clips."""
    generator = Generator(SMALL.run().network, 8)
    for block in generator.synthesis.blocks:
        torch.nn.init.ones_(block.conv1.noise_strength)
    noise = Draws(0, "test", 0, range(1), 2, torch.device("cpu")).noise(generator.synthesis.noise_shapes(), 5)
    ws = torch.randn(2, 5, 512)
    one, other = (f(generator, ws, first, noise) for f in (render, video_step.frame_by_frame))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


SIDES = """
import sys
from mvgan.bench.video_step import VideoStep, training
from mvgan.nets.generator import Synthesis

calls = []
plain = Synthesis.forward
def counted(self, ws, *rest):
    calls.append(len(ws))
    return plain(self, ws, *rest)
Synthesis.forward = counted
turns = training(VideoStep(8, "cpu", 64, 8, 2, 4), sys.argv[1] == "True")
print([next(turns), next(turns)], sorted(set(calls)), len(calls))
"""


@pytest.mark.parametrize(("per_frame", "rows", "calls"), [(False, 8, 96), (True, 4, 192)])
def test_synthesis_calls(per_frame: bool, rows: int, calls: int) -> None:
    """By hand: a step renders 4 clips of 16 frames once for the discriminators and 5 times for L_omega, 8 frames at once; two steps."""
    done = subprocess.run([sys.executable, "-c", SIDES, str(per_frame)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == f"[4, 4] [{rows}] {calls}"


@pytest.mark.parametrize("batch", [0, 2, 6])
def test_a_batch_that_does_not_divide_is_refused(batch: int) -> None:
    with pytest.raises(InputError, match="multiple of 4"):
        video_step.check(VideoStep(8, "cpu", 64, 8, 2, batch))
