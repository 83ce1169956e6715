"""What an autoscaler may add to the cluster, and asking it for nodes.

Ray has two. The first one tells nobody what it may launch, but runs beside the head with its configuration; the second one (KubeRay's, and
the launcher's by choice) says which requests it cannot fulfil.
"""

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]  # generated
from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import ResourceRequestPriority
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator


logger = logging.getLogger(__name__)

Bundle = dict[str, float]
"""Resources of one worker or task, all on one node."""

HEAD = "node:__internal_head__"
"""What only the head's node has, 1 of it."""

EXPIRE_S, REPEAT_S = 180.0, 30.0
"""A request whose job was killed is forgotten after a while, so that its nodes can end; whoever goes on waiting repeats it."""

ANSWER_S, LEAVE_S = 30.0, 5.0
"""Most that the head is waited for, and when nothing depends on it: a request that is not taken back is forgotten in time."""


class Ask:
    """A request for room, which holds until it is withdrawn, while `keep` is called at least every EXPIRE_S seconds.

    It goes to the actor that collects the requests of Ray Train and Ray Data: what is asked without it is forgotten as soon as one of
    them asks for something. A cluster without an autoscaler takes no notice. Where the actor does not answer, as its node was lost,
    a warning says so; training can do without.
    """

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self._who, self._bundles = f"mvgan-{uuid.uuid4()}", list(bundles)
        self._coordinator: Any = get_or_create_autoscaling_coordinator()
        self._send()

    def _send(self) -> None:
        self._asked_at = time.monotonic()
        request = self._coordinator.request_resources
        self._answer = request.remote(self._who, self._bundles, EXPIRE_S, priority=ResourceRequestPriority.HIGH)

    def keep(self) -> None:
        """Repeat the request, if that is due."""
        if time.monotonic() >= self._asked_at + REPEAT_S:
            self.arrived(0)
            self._send()

    def arrived(self, longest_s: float) -> None:
        """Wait until the request has come to where the autoscaler reads it, at most so long."""
        try:
            ray.get(self._answer, timeout=longest_s)
        except ray.exceptions.RayError as error:
            logger.warning("the autoscaler could not be asked for nodes: %s", type(error).__name__)

    def withdraw(self) -> None:
        """Take it back."""
        ray.wait([self._coordinator.cancel_request.remote(self._who)], timeout=LEAVE_S)


def answers_requests() -> bool:
    """Whether the autoscaler is the one that says which requests it cannot fulfil."""
    return bool(is_autoscaler_v2(fetch_from_server=True, gcs_client=_gcs()))


def refuses(bundles: Sequence[Bundle]) -> bool:
    """Whether the autoscaler has said that it can never fulfil a request for just these `bundles`.

    What it says of requests by several jobs together does not count: each of them may be fulfilled in its turn.
    """
    reply = GetClusterStatusReply.FromString(_gcs().get_cluster_status(timeout_s=ANSWER_S))
    wanted = Counter(_key(bundle) for bundle in bundles)
    for constraint in reply.autoscaling_state.infeasible_cluster_resource_constraints:
        asked: Counter[Any] = Counter()
        for kind in constraint.resource_requests:
            asked[_key(kind.request.resources_bundle)] += kind.count
        if asked == wanted:
            return True
    return False


def _key(bundle: Any) -> frozenset[tuple[str, float]]:
    return frozenset((name, float(amount)) for name, amount in bundle.items())


def _gcs() -> GcsClient:
    return GcsClient(address=ray.get_runtime_context().gcs_address)


@dataclass(frozen=True)
class NodeType:
    """Nodes of a kind that the autoscaler may have at once beside the head."""

    resources: Bundle
    most: int


@dataclass(frozen=True)
class Growth:
    """What the autoscaler may have beside the head: nodes of these kinds, at most so many in all."""

    kinds: tuple[NodeType, ...]
    most: int


def growth() -> Growth | None:
    """What the first autoscaler may add, by its configuration; None where there is none."""
    read: Any = ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_retries=0)(_read_config)
    text = ray.get(read.remote(ray.get_runtime_context().gcs_address), timeout=ANSWER_S)
    return None if text is None else growth_of(yaml.safe_load(text))


def growth_of(config: dict[str, Any]) -> Growth:
    """The same, of a configuration of Ray's cluster launcher, as it is on the head."""
    most = int(config.get("max_workers", 0))
    kinds = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
    return Growth(tuple(NodeType(dict(kind["resources"]), min(most, int(kind.get("max_workers", most)))) for kind in kinds.values()), most)


def _read_config(gcs_address: str) -> str | None:
    """On the head: the text of the configuration with which the autoscaler of this cluster was started."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = os.fsdecode(path.read_bytes()).split("\0")  # of any process, so any bytes
        except OSError:
            continue  # a process that has ended, or another user's
        flags = dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
        if flags.get("--gcs-address") == gcs_address and "--autoscaling-config" in flags:
            return Path(os.path.expanduser(flags["--autoscaling-config"])).read_text(encoding="utf-8")
    return None
