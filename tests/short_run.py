"""The pipeline at its shortest, in a process of its own: what the tests of tests/ray and tests/soak start and kill."""

import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]
SHORT = [
    "--preset", "smoke", "--pairs.total-kimg", "0.64", "--pairs.tick-kimg", "0.16", "--pairs.commit-kimg", "0.16",
    "--pairs.eval-pairs", "64",
    "--video.total-clips", "32", "--video.tick-clips", "16", "--latents", "2", "--network.precision", "fp32", "--threads", "1",
]  # fmt: skip


def command(*flags: str, job: str = "pipeline") -> list[str]:
    """The pipeline, or one job of it, at its shortest; what `flags` set holds instead."""
    short = [part for name, value in zip(SHORT[::2], SHORT[1::2], strict=True) if name not in flags for part in (name, value)]
    return [sys.executable, "-m", f"jobs.{job}", *short, *flags]


def environment() -> dict[str, str]:
    """A user's: without what a cluster of the tests' own process has set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}


def run(*flags: str, job: str = "pipeline") -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    return subprocess.run(command(*flags, job=job), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
