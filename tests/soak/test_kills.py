"""kill -9 of the driver at a moment of every stage: the same command ends with the undisturbed run's files, to the bit."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.short_run import ROOT, command, environment, run
from tests.soak.record import Record


KEPT = "the first latent of stage 2 is kept"
MOMENTS = {
    "ingest begins": "data/plan.json",
    "the run is recorded": "run.json",
    "stage 1 begins": "pairs/epochs/*.inherits.json",
    "the first commit of stage 1": "pairs/commits/*.json",
    "the end of stage 1": "export/generator.safetensors",
    "stage 2 begins": "codes/epochs/*.inherits.json",
    KEPT: "codes/kept/*.factors",
    "the commit of stage 2": "codes/commits/*.json",
    "stage 3 begins": "video/epochs/*.inherits.json",
    "the first commit of stage 3": "video/commits/*.json",
    "the end of stage 3": "export/latent.safetensors",
}
TABLE = "The whole pipeline with one worker: the driver"
EXPORTS = ("generator.safetensors", "codes.safetensors", "latent.safetensors", "config.json")


@pytest.fixture(scope="module")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run that nobody killed."""
    storage = tmp_path_factory.mktemp("runs")
    done = run("--videos", str(clips), "--storage", str(storage), "--name", "whole")
    assert done.returncode == 0, done.stderr + done.stdout
    return storage / "whole"


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at(moment: str, record: Record, clips: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    record.skip_known(TABLE, moment)
    undisturbed = request.getfixturevalue("undisturbed")
    started = time.monotonic()
    flags = ("--videos", str(clips), "--storage", str(tmp_path), "--name", "killed")
    folder = tmp_path / "killed"
    driver = subprocess.Popen(command(*flags), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(folder.glob(MOMENTS[moment])):
        assert driver.poll() is None and time.monotonic() < deadline, f"{moment}: never came"
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    again = run(*flags)
    assert again.returncode == 0, again.stderr + again.stdout
    assert moment != KEPT or re.search(r"codes: [12] of 2 latents were known from before", again.stdout), again.stdout
    changed = [name for name in EXPORTS if (folder / "export" / name).read_bytes() != (undisturbed / "export" / name).read_bytes()]
    record.add(TABLE, moment, not changed, started)
    assert changed == []
