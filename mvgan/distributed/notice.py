"""Passes a cloud's notice that a spot machine will be taken away on to Ray, which asks no cloud by itself.

    python -m mvgan.distributed.notice aws

runs beside the `ray start` of a node (cluster/aws-gpu.yaml, cluster/gcp-gpu.yaml), asks the machine's own metadata service every few
seconds, and drains the node once there is a notice. Training then commits and goes on without it.
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path


SERVICES = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}
GCP_NOTICE_S = 30
"""What Google gives from the notice on, without a time in it: https://cloud.google.com/compute/docs/instances/preemptible."""
POLL_S = {"aws": 5.0, "gcp": 1.0}
"""Time between two looks; AWS advises 5 s."""
ANSWER_S = 5.0


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


def main(arguments: Sequence[str]) -> None:
    """Wait for a notice, drain, and end."""
    parser = argparse.ArgumentParser(prog="python -m mvgan.distributed.notice", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cloud", choices=SERVICES)
    parser.add_argument("--service", help="address of the metadata service, where it is another one")
    flags = parser.parse_args(arguments)
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
    main(sys.argv[1:])
