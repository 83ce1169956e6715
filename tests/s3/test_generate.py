"""A batch of videos on S3, by a user's command, through a bad network: the files of a local batch, and what is there is not made again."""

import os
import subprocess
import sys
from pathlib import Path

from mvgan.storage.uri import open_store
from tests.s3.proxy import FaultProxy, Rule, sometimes
from tests.short_run import ROOT, environment


def generate(run: str, out: str) -> subprocess.CompletedProcess[str]:
    """Forty videos of three frames as Parquet."""
    flags = ["--run", run, "--seeds", "0-39", "--frames", "3", "--format", "parquet", "--out", out, "--threads", "1"]
    return subprocess.run(
        [sys.executable, "-m", "jobs.generate", *flags], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )


def test_a_batch_on_s3_is_that_of_local_folders(finished: tuple[Path, str], bucket: str, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    """Of all requests, five in a hundred fail, in five ways; then one file is lost, and the same command makes it alone anew."""
    local = generate(str(finished[0]), str(tmp_path / "local"))
    assert local.returncode == 0, local.stderr
    export = finished[0] / "export"
    for path in export.iterdir():
        open_store(f"{bucket}/run").write(f"export/{path.name}", path.read_bytes())
    kinds = (Rule("status"), Rule("reset"), Rule("truncate"), Rule("lost_ack"), Rule("hang", seconds=1))
    fault_proxy.requests(clear=True)
    fault_proxy.fail(Rule("reset", count=1), *sometimes(0.05, *kinds))
    done = generate(f"{bucket}/run", f"{bucket}/videos")
    struck = sum(request.fault is not None for request in fault_proxy.requests())
    fault_proxy.heal()
    assert done.returncode == 0, done.stderr
    assert struck > 0
    there, expected = open_store(f"{bucket}/videos"), open_store(str(tmp_path / "local"))
    paths = [path for path in expected.list() if path.startswith("videos/")]
    assert len(paths) == 3 and {path: there.read(path) for path in paths} == {path: expected.read(path) for path in paths}
    there.delete(paths[1])
    fault_proxy.requests(clear=True)
    assert generate(f"{bucket}/run", f"{bucket}/videos").returncode == 0
    written = [request for request in fault_proxy.requests() if request.method == "PUT" and "/videos/videos/" in request.target]
    assert len(written) == 1 and os.path.basename(paths[1]) in written[0].target
    assert there.read(paths[1]) == expected.read(paths[1])
