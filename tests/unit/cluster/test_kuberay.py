"""Files for Kubernetes.

Reference: KubeRay's own schemas (folder kuberay/ of MVGAN_TEST_DATA), Ray's command line, and mvgan's for what the job runs.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.prepare import check, start_options
from mvgan.config import InputError
from tests.unit.cluster.files import CLUSTER, REMOVE, load, pinned, spoil


CLUSTER_FILE, JOB_FILE = "kuberay-cluster.yaml", "kuberay-job.yaml"
HEAD, GPU = "headGroupSpec/template/spec", "workerGroupSpecs/1"
SPOILED = [
    ("rayVersions", "2.60.0"), ("rayVersion", 2.6), ("authOptions/mode", "tokens"), ("authOptions/modes", "token"),
    ("enableInTreeAutoscaling", "yes"), ("autoscalerOptions/version", "v3"), ("autoscalerOptions/idleTimeoutSeconds", "5m"),
    ("headGroupSpec", REMOVE), ("headGroupSpec/template", REMOVE), ("headGroupSpec/rayStartParams/num-cpus", 0),
    (f"{HEAD}/containers", REMOVE), (f"{HEAD}/containers/0/name", REMOVE), (f"{HEAD}/containers/0/images", "x"),
    (f"{HEAD}/containers/0/securityContext/capabilities/drop", "ALL"), (f"{HEAD}/securityContext/runAsNonRoot", "yes"),
    (f"{GPU}/maxReplica", 3), (f"{GPU}/replicas", "two"), (f"{GPU}/template/spec/tolerations/0/effects", "NoSchedule"),
    (f"{GPU}/template/spec/volumes/0/emptyDir/medum", "Memory"), (f"{GPU}/template/spec/containers/0/resources/limit", {}),
]  # fmt: skip
SPOILED_JOB = [
    ("backoffLimit", "3"), ("backofLimit", 3), ("shutdownAfterJobFinishes", "true"), ("ttlSecondsAfterFinished", "10m"),
    ("entrypoint", ["python"]), ("rayClusterSpec/headGroupSpec", REMOVE),
]  # fmt: skip


def strict(schema: Any) -> Any:
    """As the API server takes it with strict fields: unknown ones are refused; a number with a unit may be written as either."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields") and isinstance(schema.get("type"), str):
        closed["additionalProperties"] = False
    return closed


@pytest.fixture(scope="module")
def validators() -> dict[str, jsonschema.Draft7Validator]:
    folder = os.environ.get("MVGAN_TEST_DATA")
    if not folder or not (Path(folder) / "kuberay").is_dir():
        pytest.skip("MVGAN_TEST_DATA names no folder with kuberay/, which has KubeRay's schemas")
    names = {CLUSTER_FILE: "rayclusters", JOB_FILE: "rayjobs"}
    return {
        file: jsonschema.Draft7Validator(
            strict(json.loads((Path(folder) / "kuberay" / f"{name}.v1.schema.json").read_text())["openAPIV3Schema"])
        )
        for file, name in names.items()
    }


@pytest.mark.parametrize("name", [CLUSTER_FILE, JOB_FILE])
def test_shipped_files_pass(validators: dict[str, jsonschema.Draft7Validator], name: str) -> None:
    assert [error.message for error in validators[name].iter_errors(load(name))] == []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [(CLUSTER_FILE, f"spec/{path}", value) for path, value in SPOILED] + [(JOB_FILE, f"spec/{path}", value) for path, value in SPOILED_JOB],
)
def test_a_planted_error_is_caught(validators: dict[str, jsonschema.Draft7Validator], name: str, path: str, value: Any) -> None:
    document = load(name)
    spoil(document, path, value)
    found = list(validators[name].iter_errors(document))
    assert found
    spoiled = path.split("/") if value is not REMOVE else path.split("/")[:-1]
    for error in found:
        where = [str(key) for key in error.absolute_path]
        assert spoiled[: len(where)] == where, (where, error.message)


def clusters() -> list[Any]:
    return [load(CLUSTER_FILE)["spec"], load(JOB_FILE)["spec"]["rayClusterSpec"]]


def test_both_files_bring_up_the_same_cluster() -> None:
    ours, of_job = clusters()
    assert ours == of_job


def test_groups_start_ray_by_options_that_it_knows() -> None:
    """Reference: Ray's command line."""
    for spec in clusters():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            start_options(" ".join(f"--{key}" if value == "true" else f"--{key}={value}" for key, value in group["rayStartParams"].items()))


def test_pods_are_closed() -> None:
    """No user but ours, no rights to gain, the token everywhere, no port outside Kubernetes, and no worker asks Kubernetes."""
    for spec in clusters():
        assert spec["authOptions"] == {"mode": "token"} and spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert all(container["securityContext"]["allowPrivilegeEscalation"] is False for container in pod["containers"])
            assert all("@sha256:" in container["image"] and "env" not in container for container in pod["containers"])
        assert all(group["template"]["spec"]["automountServiceAccountToken"] is False for group in spec["workerGroupSpecs"])


PRE_STOP = "containers/0/lifecycle/preStop"
LEAVE = f"{PRE_STOP}/exec/command"


def test_pods_are_drained_before_they_end() -> None:
    """Reference: the command's own reading of its flags, and the modules that there are."""
    for spec in clusters():
        for group in spec["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            python, flag, module, *words = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            assert (python, flag) == ("python", "-m") and importlib.util.find_spec(module)
            read = importlib.import_module(module).read(words)
            assert read.cloud == "now" and 60 <= read.seconds < pod["terminationGracePeriodSeconds"] <= 120  # 120 is what AWS gives


@pytest.mark.parametrize("name", [CLUSTER_FILE, JOB_FILE])
@pytest.mark.parametrize("group", [0, 1, 2])
@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (f"{LEAVE}/2", "mvgan.distributed.notices", "told nothing"), (f"{LEAVE}/3", "aws", "told nothing"),
        (f"{LEAVE}/4", "--second", "told nothing"), (f"{LEAVE}/5", "soon", "told nothing"), (LEAVE, REMOVE, "told nothing"),
        (PRE_STOP, {"httpGet": {"port": 1}}, "told nothing"), ("containers/0/lifecycle", REMOVE, "told nothing"),
        (f"{LEAVE}/5", "106", "preStop takes 106 s of the 110 s"), (f"{LEAVE}/5", "0", "preStop takes 0 s"),
        ("terminationGracePeriodSeconds", 100, "100 s of the 100 s"), ("terminationGracePeriodSeconds", REMOVE, "100 s of the 30 s"),
        ("terminationGracePeriodSeconds", None, "100 s of the 30 s"), ("terminationGracePeriodSeconds", "110", "is '110'; give whole"),
        ("terminationGracePeriodSeconds", "110s", "is '110s'; give whole seconds"), ("terminationGracePeriodSeconds", True, "is True"),
        ("containers", "none", "told nothing"),
    ],
)  # fmt: skip
def test_a_pod_that_ends_before_it_has_drained_is_refused(name: str, group: int, path: str, value: Any, said: str) -> None:
    document, above = load(name), "spec" if name == CLUSTER_FILE else "spec/rayClusterSpec"
    check(yaml.safe_dump(document))
    spoil(document, f"{above}/workerGroupSpecs/{group}/template/spec/{path}", value)
    with pytest.raises(InputError, match=f"{document_groups(document)[group]}: .*{said}"):
        check(yaml.safe_dump(document))


@pytest.mark.parametrize(("path", "value"), [("spec", "none"), ("workerGroupSpecs", {"decode": {}}), ("workerGroupSpecs", ["decode"])])
def test_workers_of_no_known_form_are_refused(path: str, value: Any) -> None:
    document = load(CLUSTER_FILE)
    spoil(document, path if path == "spec" else f"spec/{path}", value)
    with pytest.raises(InputError, match="the RayCluster has no list workerGroupSpecs"):
        check(yaml.safe_dump(document))


def document_groups(document: Any) -> list[str]:
    """Names of its groups of workers."""
    spec = document["spec"]
    return [group["groupName"] for group in spec.get("rayClusterSpec", spec)["workerGroupSpecs"]]


def test_the_job_is_a_command_of_mvgan() -> None:
    """Reference: the verb's own reading of its flags, which goes before any file is touched."""
    python, *arguments = shlex.split(load(JOB_FILE)["spec"]["entrypoint"])
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *arguments, "--print-config"], cwd=CLUSTER.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "resolution:" in done.stdout
    from jobs._cli import parse
    from jobs.pipeline import Flags

    assert parse(Flags, arguments[2:], "").resources.gpu, "it would train on CPUs, beside the GPU nodes"


def test_a_variable_with_a_secret_is_refused() -> None:
    document = load(JOB_FILE)
    spoil(document, f"spec/rayClusterSpec/{HEAD}/containers/0/env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "abcdefgh"}])
    with pytest.raises(InputError, match="AWS_SECRET_ACCESS_KEY of the job looks like a secret"):
        check(yaml.safe_dump(document))


def test_versions_are_those_of_the_constraints() -> None:
    """Of Ray, in all files and the image; the image takes everything else by constraints.txt itself."""
    assert {spec["rayVersion"] for spec in clusters()} == {pinned("ray")}
    image = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    installs = [line for line in image.splitlines() if "pip install" in line]
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    named = {version for file in CLUSTER.iterdir() if file.is_file() for version in re.findall(r"ray(?:\[\S*\])?==(\S+)", file.read_text())}
    assert named <= {pinned("ray")}
