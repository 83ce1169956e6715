"""The shipped files of cluster/, filled in with values of nobody."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from cluster.prepare import fill


CLUSTER = Path(__file__).parents[3] / "cluster"
VALUES = {
    "ACCOUNT": "123456789012", "AMI": "ami-0123456789abcdef0", "BUCKET": "some-bucket", "GROUP": "sg-0123456789abcdef0",
    "HEAD_ACCOUNT": "head@p.iam.gserviceaccount.com", "HEAD_PROFILE": "mvgan-head", "IMAGE": "some.registry/mvgan@sha256:" + "a1" * 32,
    "KEY_NAME": "mine", "MACHINE_IMAGE": "projects/p/global/images/i", "PROJECT": "some-project", "REGION": "eu-central-1",
    "SSH_CIDR": "203.0.113.7/32", "SSH_KEY": "~/.ssh/mine.pem", "SUBNETWORK": "projects/p/regions/r/subnetworks/s",
    "SUBNET_HEAD": "subnet-0123456789abcdef0", "SUBNET_WORKERS": "subnet-0123456789abcdef1",
    "WORKER_ACCOUNT": "worker@p.iam.gserviceaccount.com", "WORKER_PROFILE": "mvgan-worker", "ZONE": "europe-west4-a",
}  # fmt: skip


def filled(name: str) -> str:
    return fill((CLUSTER / name).read_text(encoding="utf-8"), VALUES)


def load(name: str) -> Any:
    """What a file says, each place of its own: what YAML shares by a name is copied."""
    return json.loads(json.dumps(yaml.safe_load(filled(name))))


def pinned(package: str) -> str:
    """Its version in constraints.txt."""
    found = re.search(rf"^{package}==(\S+)$", (CLUSTER.parent / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


REMOVE = object()


def spoil(document: Any, path: str, value: Any) -> None:
    """Set what is at a path of keys and indices, or remove it."""
    *above, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in above:
        document = document[key]
    if value is REMOVE:
        del document[last]
    else:
        document[last] = value
