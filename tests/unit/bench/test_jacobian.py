"""The sides of the benchmark of the Jacobian, small: both find the same Gram, and the rival's rows are torch's."""

import functools
import json

import pytest
import torch
from torch import Tensor

from jobs import bench as verb
from mvgan.bench import jacobian
from mvgan.bench.harness import Turn
from mvgan.bench.jacobian import Jacobian
from mvgan.motion.jacobian import pair_grams
from mvgan.nets.generator import Generator
from mvgan.train.codes import chunk_of, synthesize
from tests.unit.jobs.test_cli import refused


SMALL = Jacobian(8, "cpu", 64, 16, w_dim=32)


def double_precision() -> tuple[Generator, Tensor]:
    generator, w = SMALL.generator()
    return generator.double(), w.double()


def test_rows_are_those_of_torch_and_give_the_same_gram() -> None:
    """Reference: torch.autograd.functional.jacobian of the grey frames; in float64."""
    generator, w = double_precision()
    frames = functools.partial(synthesize, generator)
    point, outputs = jacobian.graph(frames, w)
    rows = torch.stack([jacobian.row(point, outputs, index) for index in range(SMALL.rows)])
    expected = torch.autograd.functional.jacobian(
        lambda x: torch.stack([synthesize(generator, x[None])[0, frame].mean(0) for frame in (0, 1)]), w
    )
    torch.testing.assert_close(rows, expected.flatten(0, 2), rtol=1e-12, atol=0)
    per_frame = rows.view(2, -1, SMALL.w_dim)
    grams = per_frame.mT @ per_frame / per_frame.shape[1]
    torch.testing.assert_close(pair_grams(frames, w, chunk=8, grey=True), grams, rtol=1e-10, atol=1e-14)


def test_rows_of_a_turn_are_spread_over_both_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(jacobian, "row", lambda point, outputs, index: seen.append(index) or point)
    steps = jacobian.released(SMALL)
    assert [next(steps) for _ in range(8)] == [8] * 8
    assert max(seen) < SMALL.rows == 128 and len(set(seen)) > 40
    assert all(20 <= sum(low <= index < low + 64 for index in seen) <= 44 for low in (0, 64))


def test_a_gram_and_as_many_passes_as_dimensions_count_as_all_rows() -> None:
    for grey in (True, False):
        steps = jacobian.grams(SMALL, grey)
        assert [next(steps) for _ in range(3)] == [0, 128, 128]
    batch = jacobian.forward_batch(SMALL)
    assert 32 % batch == 0 and next(jacobian.forward(SMALL)) * (32 // batch) == 128


def test_what_is_compared() -> None:
    """First the figure that is asked for; on a GPU by the clock. The error is one of float32."""
    found = jacobian.benchmark(SMALL)
    assert found.ratios[0].name == "mvgan / released" and "forward / mvgan" in {ratio.name for ratio in found.ratios}
    assert {name for ratio in found.ratios for name in (ratio.fast, ratio.slow)} == {side.name for side in found.sides}
    assert 1e-9 < found.settings["gram_error"] <= 1e-5 and found.settings["rows"] == 128


@pytest.mark.parametrize(
    ("resolution", "base", "most", "chunk"), [(256, 4096, 256, 8), (64, 4096, 256, 32), (256, 32768, 512, 4), (8, 64, 16, 64)]
)
def test_tangents_at_once_on_a_cpu(resolution: int, base: int, most: int, chunk: int) -> None:
    """By hand: 32 MiB over 4096 * 256 * 4, 4096 * 64 * 4 and 32768 * 256 * 4 bytes (at least 4), and the setting's 64."""
    run = Jacobian(resolution, "cpu", base, most).run()
    assert chunk_of(run, torch.device("cpu")) == chunk and chunk_of(run, torch.device("cuda")) == 64


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of known speed in place of measured ones, which test_harness.py has."""
    pytest.importorskip("psutil", reason="psutil is not installed (extra `bench`)")
    speeds = {"mvgan": 128, "released": 1, "mvgan RGB": 64, "forward": 256}
    monkeypatch.setattr(verb, "compare", lambda *_: {name: [Turn(speed, 1.0, 1.0, 1.0)] for name, speed in speeds.items()})
    verb.run(verb.Flags("jacobian", resolution=8, channel_base=64, rounds=1))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "jacobian" and found["ratio"] == found["ratios"]["mvgan / released"] == 128
    assert found["ratios"]["forward / mvgan"] == 2 and found["ratios"]["forward / mvgan RGB"] == 4
    assert found["gram_error"] <= 1e-5 and set(found["peak_mb"]) == {"mvgan", "released", "mvgan RGB", "forward"}


def test_mistakes_are_told_in_one_line() -> None:
    assert "no power of two" in refused(verb.run, verb.Flags, "jacobian", "--resolution", "100")
    assert "give cpu, cuda or cuda:0" in refused(verb.run, verb.Flags, "jacobian", "--device", "meta")
    assert "jacobian reads no --batch" in refused(verb.run, verb.Flags, "jacobian", "--batch", "8")
    assert "must be at least the resolution 64" in refused(verb.run, verb.Flags, "jacobian", "--resolution", "64", "--channel-base", "32")
