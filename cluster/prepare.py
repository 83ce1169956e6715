"""Fill in a cluster's files and check them, before they cost anything.

    python -m cluster.prepare --out mine cluster/aws-gpu.yaml REGION=eu-central-1 IMAGE=...

fills in each REPLACE_NAME by NAME=value, checks the result and writes it to the folder `mine`; without --out it checks
only. Launcher files are checked by Ray, the nodes of AWS by botocore too, and all of them for what must stay closed;
files for Kubernetes for the end of their pods, and otherwise by `kubectl apply --dry-run=server`. A mistake is one line and exit status 2.
"""

import argparse
import copy
import ipaddress
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from jobs._secrets import INSTEAD, refuse_in_command, refuse_in_variables
from mvgan.config import InputError


NAMES: dict[str, tuple[str, str]] = {
    "ACCOUNT": (r"\d{12}", "the 12 digits of `aws sts get-caller-identity`"),
    "AMI": (r"ami-[0-9a-f]{8,17}", "a machine image, ami-..."),
    "BUCKET": (r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name"),
    "GROUP": (r"sg-[0-9a-f]{8,17}", "a security group, sg-..."),
    "HEAD_ACCOUNT": (r"[\w.-]+@[\w.-]+", "a service account's address"),
    "HEAD_PROFILE": (r"[\w+=,.@-]+", "the name of an instance profile"),
    "IMAGE": (r"\S+@sha256:[0-9a-f]{64}", "an image by its digest, name@sha256:..."),
    "KEY_NAME": (r"\S+", "the name of a key pair"),
    "MACHINE_IMAGE": (r"projects/\S+/images/\S+", "an image as projects/.../images/..."),
    "PROJECT": (r"[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project's id"),
    "REGION": (r"[a-z]+(-[a-z]+)+-?\d", "a region, as eu-central-1"),
    "SSH_CIDR": (r"\S+/\d+", "the addresses that SSH may come from, as 203.0.113.7/32"),
    "SSH_KEY": (r"[~/]\S*", "the path of a private key's file"),
    "SUBNETWORK": (r"projects/\S+/subnetworks/\S+", "a subnetwork as projects/.../regions/.../subnetworks/..."),
    "SUBNET_HEAD": (r"subnet-[0-9a-f]{8,17}", "a public subnet, subnet-..."),
    "SUBNET_WORKERS": (r"subnet-[0-9a-f]{8,17}", "a private subnet, subnet-..."),
    "WORKER_ACCOUNT": (r"[\w.-]+@[\w.-]+", "a service account's address"),
    "WORKER_PROFILE": (r"[\w+=,.@-]+", "the name of an instance profile, and of its role"),
    "ZONE": (r"[a-z]+-[a-z]+\d-[a-z]", "a zone, as europe-west4-a"),
}
"""What a user fills in: the form it has, and what it is."""


def fill(text: str, values: dict[str, str]) -> str:
    """The text with each REPLACE_NAME filled in. Raises InputError for a value of another form, and for one that is missing."""
    for name, value in values.items():
        if name not in NAMES:
            raise InputError(f"{name} is nothing to fill in; known are {', '.join(NAMES)}")
        form, what = NAMES[name]
        if not re.fullmatch(form, value):
            raise InputError(f"{name}={value} has another form; give {what} (cluster/README.md says how to look it up)")
    if "SSH_CIDR" in values:
        _check_cidr(values["SSH_CIDR"])
    wanted = set(re.findall(r"REPLACE_([A-Z][A-Z_]*)", text))
    if missing := sorted(wanted - values.keys()):
        listed = "; ".join(f"{name}: {NAMES[name][1] if name in NAMES else 'unknown'}" for name in missing)
        raise InputError(f"not filled in: {listed}. Give each as NAME=value")
    return re.sub(r"REPLACE_([A-Z][A-Z_]*)", lambda match: values[match[1]], text)


def _check_cidr(cidr: str) -> None:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise InputError(f"SSH_CIDR={cidr}: {error}; give {NAMES['SSH_CIDR'][1]}") from None
    if network.num_addresses > 2**16:
        raise InputError(f"SSH_CIDR={cidr} is {network.num_addresses} addresses; give those of one place, 65536 at most")


def check(text: str) -> None:
    """Check a filled-in file, YAML or JSON. Raises InputError with the first thing that is wrong."""
    if left := re.search(r"REPLACE_[A-Za-z]\w*", text):
        raise InputError(f"{left[0]} is not filled in; see cluster/README.md")
    try:
        document = yaml.safe_load(text)  # JSON is YAML too
    except yaml.YAMLError as error:
        raise InputError(f"no YAML: {' '.join(str(error).split())}") from None
    _check_secrets(document)
    if isinstance(document, dict) and "cluster_name" in document:
        check_launcher(document)
    if isinstance(document, dict) and document.get("kind") in ("RayCluster", "RayJob"):
        check_pods(document)


def _check_secrets(value: Any) -> None:
    """No word of a file, and no variable that it sets, looks like a secret."""
    what_to_do = f"and whoever has the file, or asks the cluster, has it; leave it away: {INSTEAD}"
    if isinstance(value, str):
        refuse_in_command(value.split(), {}, what_to_do)
    if isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("value"), str):  # a variable of a pod
        refuse_in_variables({value["name"]: value["value"]}, {}, what_to_do)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_secrets(part)


LEAVE = ["python", "-m", "mvgan.distributed.notice", "now", "--seconds"]
"""What a worker's pod runs before it ends, and after it the seconds that this may take."""

END_S = 5
"""Seconds that Ray's processes are left to end in, after that."""


GRACE_S = 30
"""Seconds that Kubernetes gives a pod to end in where none are given."""


def check_pods(document: dict[str, Any]) -> None:
    """Check that each worker of a RayCluster, or of a RayJob's, is drained before its pod ends, in its time. Raises InputError."""
    spec = document.get("spec")
    cluster = spec.get("rayClusterSpec") or spec if isinstance(spec, dict) else None
    groups = cluster.get("workerGroupSpecs") if isinstance(cluster, dict) else None
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise InputError(f"the {document['kind']} has no list workerGroupSpecs of groups of workers; see cluster/README.md")
    for group in groups:
        name, command, grace_s = group.get("groupName"), [], None
        with suppress(KeyError, IndexError, TypeError, AttributeError):  # another form is none of these commands
            pod = group["template"]["spec"]
            grace_s = pod.get("terminationGracePeriodSeconds")
            command = list(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
        grace_s = GRACE_S if grace_s is None else grace_s
        if type(grace_s) is not int:
            raise InputError(f"{name}: terminationGracePeriodSeconds is {grace_s!r}; give whole seconds without quotes, as 110")
        if command[:-1] != LEAVE or not str(command[-1]).isdigit():
            raise InputError(
                f"{name}: training would be told nothing before a pod ends; give its first container the preStop command "
                f"{' '.join(LEAVE)} SECONDS"
            )
        if not 1 <= int(command[-1]) <= grace_s - END_S:
            raise InputError(
                f"{name}: preStop takes {command[-1]} s of the {grace_s} s that the pod has to end; give 1 to {grace_s - END_S}, "
                "or a longer terminationGracePeriodSeconds"
            )


def check_launcher(config: dict[str, Any]) -> None:
    """Check a file of Ray's cluster launcher. Raises InputError."""
    _check_by_ray(config)
    if not config.get("available_node_types"):
        raise InputError("available_node_types is missing, for which Ray takes machines of its own choice; name the kinds of nodes")
    _check_starts(config)
    _check_docker(config.get("docker") or {}, config.get("file_mounts") or {})
    for name, kind in config["available_node_types"].items():
        is_head = name == config["head_node_type"]
        if config["provider"]["type"] == "aws":
            _check_aws_node(name, kind["node_config"], is_head)
        elif not is_head and any(
            face.get("accessConfigs") for face in kind["node_config"].get("networkInterfaces") or [{"accessConfigs": 1}]
        ):
            raise InputError(f"{name}: a worker would get a public address; give networkInterfaces without accessConfigs")


def _check_docker(docker: dict[str, Any], mounts: dict[str, str]) -> None:
    images = {name: docker[name] for name in ("image", "head_image", "worker_image") if docker.get(name)}
    for name, image in images.items() if images else [("image", "")]:
        if "@sha256:" not in image:
            raise InputError(f"docker.{name} has no digest, so nodes could run different images; give name@sha256:...")
    for source in mounts.values():
        if re.search(r"(^|/)\.(aws|ssh|azure|kube|config/gcloud)(/|$)", source):
            raise InputError(f"file_mounts copies {source} to all nodes, which holds your own keys; leave it away: {INSTEAD}")


def _check_by_ray(config: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        raise InputError(f"Ray refuses {where or 'the file'}: {error.message}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"Ray refuses the file: {error}") from None


def _check_starts(config: dict[str, Any]) -> None:
    """Every `ray start` has options that Ray knows, asks for the token, and shows the dashboard to its own machine alone."""
    for role in ("head", "worker"):
        starts = [line for line in config.get(f"{role}_start_ray_commands", []) if "ray start" in line]
        if not starts:
            raise InputError(f"{role}_start_ray_commands has no `ray start`; Ray's own would open the dashboard to all")
        for line in starts:
            options = start_options(line.split("ray start", 1)[1])
            if not re.search(r"\bRAY_AUTH_MODE=token(\s|$)", line.split("ray start", 1)[0]):
                raise InputError(f"{role}_start_ray_commands: put RAY_AUTH_MODE=token before `ray start`, or Ray may listen to everyone")
            if not options["head"] and role == "head":
                raise InputError("head_start_ray_commands: `ray start` lacks --head")
            if options["dashboard_host"] not in ("127.0.0.1", "localhost"):
                raise InputError(f"--dashboard-host={options['dashboard_host']} opens the dashboard; give 127.0.0.1 and use an SSH tunnel")


def start_options(arguments: str) -> dict[str, Any]:
    """Options of a `ray start`, as Ray itself reads them. Raises InputError for those it does not know."""
    import click
    from ray.scripts.scripts import start

    try:
        return start.make_context("ray start", shlex.split(arguments)).params
    except click.ClickException as error:
        raise InputError(f"ray start {arguments.strip()}: {error.format_message()}") from None


def _check_aws_node(name: str, node: dict[str, Any], is_head: bool) -> None:
    import boto3
    from botocore.validate import ParamValidator

    shape = boto3.client("ec2", region_name="us-east-1").meta.service_model.operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    if report.has_errors():
        raise InputError(f"{name}: AWS refuses node_config: {' '.join(report.generate_report().split())}")
    if not node.get("IamInstanceProfile"):
        raise InputError(f"{name}: no IamInstanceProfile; for a head without it Ray makes a role with all rights on S3 and EC2")
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        raise InputError(f"{name}: MetadataOptions.HttpTokens is not required, so that any request forged on a node gets its role")
    if not all(disk.get("Ebs", {}).get("Encrypted") is True for disk in node.get("BlockDeviceMappings") or [{}]):
        raise InputError(f"{name}: a disk is not encrypted; set BlockDeviceMappings with Ebs.Encrypted: true")
    faces = node.get("NetworkInterfaces") or [{}]
    if not all(face.get("Groups") for face in faces):
        raise InputError(
            f"{name}: no security group; Ray would make one that is open for SSH to everyone. Set NetworkInterfaces with Groups"
        )
    if not is_head and any(face.get("AssociatePublicIpAddress") is not False for face in faces):
        raise InputError(f"{name}: a worker may get a public address; set AssociatePublicIpAddress: false")


def main(arguments: list[str]) -> None:
    """Fill in, check and write the files that are named."""
    parser = argparse.ArgumentParser(prog="python -m cluster.prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("given", nargs="+", metavar="FILE or NAME=value")
    parser.add_argument("--out", type=Path, help="folder for the files that are filled in")
    flags = parser.parse_args(arguments)
    values = dict(word.split("=", 1) for word in flags.given if "=" in word)
    files = [Path(word) for word in flags.given if "=" not in word]
    if not files:
        raise InputError("no file is named; give one or more of cluster/")
    filled: dict[str, str] = {}
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is no file")
        if flags.out and flags.out.resolve() == file.parent.resolve():
            raise InputError(f"--out {flags.out} is the folder of {file}, which would be overwritten; give another")
        try:
            filled[file.name] = fill(file.read_text(encoding="utf-8"), values)
            check(filled[file.name])
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: {error}") from None
    for name, text in filled.items():
        if flags.out:
            try:
                flags.out.mkdir(parents=True, exist_ok=True)
                (flags.out / name).write_text(text, encoding="utf-8")
            except OSError as error:
                raise InputError(f"--out {flags.out} cannot be written: {error.strerror}; give another folder") from None
        print(f"{flags.out / name if flags.out else name}: ok")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
