"""Passes a cloud's notice that a spot machine will be taken away on to Ray, which asks no cloud by itself.

    python -m mvgan.distributed.notice aws

runs beside the `ray start` of a node (cluster/aws-gpu.yaml, cluster/gcp-gpu.yaml), asks the machine's own metadata service every few
seconds, and drains the node once there is a notice. Training then commits and goes on without it.

    python -m mvgan.distributed.notice now --seconds 100

is for Kubernetes, which gives notice by running a command in the pod (`preStop`, cluster/kuberay-cluster.yaml) and ends the pod as soon as
that returns: it drains at once, and waits for the node's work to leave.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mvgan.config import Ended


SERVICES = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}
GCP_NOTICE_S = 30
"""What Google gives from the notice on, without a time in it: https://cloud.google.com/compute/docs/instances/preemptible."""
POLL_S = {"aws": 5.0, "gcp": 1.0}
"""Time between two looks; AWS advises 5 s."""
ANSWER_S = 5.0
NOW = "now"
LOOK_S = 0.5
"""Time between two looks whether a drained node's work has left."""


def seconds_left(cloud: str, service: str) -> float | None:
    """Seconds until the machine is taken away, None without a notice. Raises OSError where the metadata service does not answer."""
    if cloud == "gcp":
        preempted = _ask(f"{service}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
        return GCP_NOTICE_S if preempted == "TRUE" else None
    token = _ask(f"{service}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        action = json.loads(_ask(f"{service}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    return max(0.0, (datetime.fromisoformat(action["time"]) - datetime.now(UTC)).total_seconds())


def drain_command(seconds: float, *more: str) -> list[str]:
    """Ray's command that drains this node, or the one that `more` names."""
    ray = str(Path(sys.executable).parent / "ray")
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the cloud takes the machine away"]
    return [ray, "drain-node", *why, "--deadline-remaining-seconds", str(int(seconds)), *more]


def leave(seconds: float, node_id: str | None = None) -> None:
    """Drain this machine's node, and wait until its raylet ends, as that of a drained node does when its work has left.

    Raises Ended where that has not come about within `seconds`; the machine then goes all the same.
    """
    deadline, drained = time.monotonic() + seconds, False
    while there := {node for node in nodes_here() if node_id in (None, node)}:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Ended(f"its work has not left within {seconds:g} s" if drained else f"Ray did not take the drain within {seconds:g} s")
        if not drained:
            drained = all(_drain(left, "--node-id", node) for node in there)
        time.sleep(LOOK_S)


def nodes_here() -> set[str]:
    """Ids of Ray's nodes on this machine, or in this container: of the raylets that are at work."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended, or is someone else's
            program, *words = path.read_text(errors="replace").split("\0")
            if Path(program).name == "raylet":
                found |= {word.removeprefix("--node_id=") for word in words if word.startswith("--node_id=")}
    return found


def _drain(seconds: float, *more: str) -> bool:
    """Whether Ray has taken the drain; a head that is gone itself takes none, and never says so."""
    try:
        return not subprocess.run(drain_command(seconds, *more), check=False, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return False


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's own reading of its flags."""
    parser = argparse.ArgumentParser(prog="python -m mvgan.distributed.notice", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cloud", choices=(*SERVICES, NOW), help="whose notice is waited for; with now there is one")
    parser.add_argument("--service", help="address of the metadata service, where it is another one")
    parser.add_argument("--seconds", type=int, help="with now: how long the machine stays, and the command waits at most")
    parser.add_argument("--node-id", help="with now: the node, where the machine has several")
    flags = parser.parse_args(arguments)
    if flags.cloud == NOW and (flags.service or flags.seconds is None or flags.seconds < 1):
        parser.error("now takes --seconds, of 1 or more, and asks no --service")
    if flags.cloud != NOW and (flags.seconds is not None or flags.node_id):
        parser.error("--seconds and --node-id go with now; a cloud says by itself how long the machine stays")
    return flags


def main(arguments: Sequence[str]) -> None:
    """Wait for a notice, drain, and end; with `now`, drain, and wait for the work to leave."""
    flags = read(arguments)
    if flags.cloud == NOW:
        return leave(flags.seconds, flags.node_id)
    service, said = flags.service or SERVICES[flags.cloud], ""
    while True:
        try:
            left = seconds_left(flags.cloud, service)
        except (OSError, ValueError, KeyError) as error:
            left, words = None, f"no answer from {service} that can be read: {error}"
            if words != said:  # once, and not every few seconds
                print(words, file=sys.stderr, flush=True)
            said = words
        if left is not None:
            print(f"the machine will be taken away in {left:.0f} s: draining its node", flush=True)
            if not subprocess.run(drain_command(left), check=False).returncode:
                return
        time.sleep(POLL_S[flags.cloud])


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Ended as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
