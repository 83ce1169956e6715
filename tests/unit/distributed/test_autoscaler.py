"""How the configuration of the first autoscaler is found, among real processes."""

import subprocess
import sys
from pathlib import Path

from mvgan.distributed.autoscaler import _read_config


def test_arguments_of_any_bytes_are_read_over(tmp_path: Path) -> None:
    """A process has arguments that are no UTF-8, among them the name of the folder of the configuration."""
    folder = bytes(tmp_path) + b"/\xff\xfe"
    config = folder + b"/cluster.yaml"
    Path(folder.decode(errors="surrogateescape")).mkdir()
    Path(config.decode(errors="surrogateescape")).write_text("max_workers: 3\n", encoding="utf-8")
    program = b"print(flush=True); input()"
    command = [sys.executable.encode(), b"-c", program, b"--gcs-address=monitored:6379", b"--autoscaling-config=" + config, b"\xff"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as monitor:
        assert monitor.stdout is not None and monitor.stdout.readline()
        assert _read_config("monitored:6379") == "max_workers: 3\n"
        assert _read_config("another:6379") is None
        monitor.communicate(b"\n")
