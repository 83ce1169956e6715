"""Ten thousand frames at 64 px: memory, whether w stays where the mapping network puts it, and whether motion goes on."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mvgan.presets import smoke
from mvgan.sample import Generator
from mvgan.storage.run import open_run
from mvgan.validation import validate
from tests.unit.conftest import find_codes, make_shards, train_stage


FRAMES, PART, LAG = 10_000, 1000, 16
SEED = 0

SAYS_PEAK = """
import atexit, runpy
atexit.register(lambda: print(open("/proc/self/status").read()))
runpy.run_module("jobs.generate", run_name="__main__", alter_sys=True)
"""
"""Runs the verb, and prints the peak of its own memory at its end: what wait4 and getrusage tell of a child (ru_maxrss) is never less
than its parent had when it was forked, here this process with its networks."""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run at 64 px, trained for minutes; or the finished one that MVGAN_RUN names."""
    if "MVGAN_RUN" in os.environ:
        return os.environ["MVGAN_RUN"]
    torch.set_num_threads(1)
    root, base = tmp_path_factory.mktemp("long"), smoke()
    pairs = dataclasses.replace(base.pairs, total_kimg=4, tick_kimg=1, commit_kimg=4, evaluations=0)
    # Longer steps than the preset's, whose walk is so slow that frames 17 apart are nearly one: that would hide a period.
    video = dataclasses.replace(base.video, total_clips=320, residual=0.14)
    run = validate(dataclasses.replace(base, resolution=64, pairs=pairs, video=video))
    shards = make_shards(root, run, num_videos=24, num_frames=72)
    folder = open_run(str(root / "run"), run, shards.uri)
    train_stage(folder, shards, "pairs")
    find_codes(folder)
    train_stage(folder, shards, "video")
    return folder.uri


@torch.no_grad()
def figures(generator: Generator, *, held: bool) -> dict[str, float]:
    """Of the interpolated video of SEED: distances of w, motion, also of its ends, and the largest autocorrelation beyond LAG."""
    hold = generator.hold
    w, maps = generator.content(SEED)
    distances, ends, last, small = [], {"first": [], "last": []}, None, []
    place = 0
    for ws, sides in generator.walk(w, FRAMES, SEED, generator.run.video.first, 2, hold if held else None):
        frames = generator.pairs_at(ws, maps)[torch.arange(len(ws)), sides]
        distances.append(hold.distribution.distance(ws))
        small.append(torch.nn.functional.adaptive_avg_pool2d(frames, 8).flatten(1))
        both = frames if last is None else torch.cat([last, frames])
        motion = both.diff(dim=0).square().flatten(1).mean(1).tolist()
        ends["first"] += motion[: max(0, PART - place)]
        ends["last"] += motion[max(0, FRAMES - PART - place) :] if place + len(ws) > FRAMES - PART else []
        last, place = frames[-1:], place + len(ws)
    distance, series = torch.cat(distances), torch.cat(small).double().numpy()
    return {
        "distance, median": float(distance.median()),
        "distance, most": float(distance.max()),
        "99th percentile of mapped w": hold.distribution.quantile(0.99),
        "motion of the first frames": float(np.mean(ends["first"])),
        "motion of the last frames over the first": float(np.mean(ends["last"]) / np.mean(ends["first"])),
        "largest autocorrelation": autocorrelation(series)[LAG + 1 : FRAMES // 2].max(),
    }


def autocorrelation(series: np.ndarray) -> np.ndarray:
    """Of rows [t, d] around their mean, by lag, summed over d; a lag of n has t - n terms, and is weighed as if it had t."""
    x = series - series.mean(0)
    spectrum = np.abs(np.fft.rfft(x, 2 * len(x), axis=0)) ** 2
    raw = np.fft.irfft(spectrum.sum(1))[: len(x)]
    found: np.ndarray = raw / raw[0] * len(x) / (len(x) - np.arange(len(x)))
    return found


def test_autocorrelation() -> None:
    """Reference: a loop over lags; a period has 1 at its length."""
    series = np.random.default_rng(0).normal(size=(50, 3))
    x = series - series.mean(0)
    loop = [np.mean(np.sum(x[: 50 - lag] * x[lag:], 1)) / np.mean(np.sum(x * x, 1)) for lag in range(50)]
    np.testing.assert_allclose(autocorrelation(series), loop, rtol=1e-9, atol=1e-9)
    assert autocorrelation(np.sin(np.arange(1000) * 2 * np.pi / 20)[:, None])[20] > 0.99


def test_a_long_video_stays_and_moves(uri: str) -> None:
    """Held: w within the 99th percentile, motion goes on, nothing comes again. The paper's recursion is printed beside it."""
    generator = Generator.load(uri)
    held, plain = figures(generator, held=True), figures(generator, held=False)
    print(f"\npull {generator.hold.pull:.4g}, shrinkage {generator.hold.distribution.shrinkage:.3g}")
    for name, value in held.items():
        print(f"{name}: held {value:.4g}, plain {plain[name]:.4g}")
    assert held["distance, most"] < held["99th percentile of mapped w"]
    assert held["motion of the last frames over the first"] > 0.5
    assert held["motion of the first frames"] > 0.5 * plain["motion of the first frames"]
    assert held["largest autocorrelation"] < 0.9
    assert plain["distance, most"] > 2 * plain["99th percentile of mapped w"]


def test_memory_does_not_grow(uri: str, tmp_path: Path) -> None:
    """Peak resident memory of the verb with 10,000 frames against 1,000."""
    peaks = []
    for frames in (PART, FRAMES):
        command = [
            sys.executable, "-c", SAYS_PEAK, "--run", uri, "--seeds", str(SEED), "--frames", str(frames), "--interpolate", "2",
            "--hold", "--out", str(tmp_path / f"{frames}.mp4"),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peaks.append(int(re.findall(r"^VmHWM:\s+(\d+) kB$", done.stdout, re.MULTILINE)[0]) / 1024)
    print(f"\npeak memory: {peaks[0]:.0f} MB for {PART} frames, {peaks[1]:.0f} MB for {FRAMES}")
    assert peaks[1] < 1.1 * peaks[0]
