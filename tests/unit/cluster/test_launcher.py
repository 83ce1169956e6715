"""Files of Ray's cluster launcher.

Reference: Ray's validation, its command line and its scheduler, botocore's parameters of RunInstances, and Ray's own bootstrap against a
made-up AWS (moto).
"""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
import yaml

from cluster.prepare import check, check_launcher, fill, main, start_options
from mvgan.config import InputError
from tests.unit.cluster.files import CLUSTER, REMOVE, VALUES, filled, load, spoil


LAUNCHERS = ("aws-gpu.yaml", "gcp-gpu.yaml")
SHIPPED = sorted(path.name for path in CLUSTER.iterdir() if path.suffix in (".yaml", ".json"))
HEAD, GPU = "available_node_types/head/node_config", "available_node_types/gpu-spot/node_config"
HEAD_START, WORKER_START = "head_start_ray_commands/1", "worker_start_ray_commands/1"
ON_BOTH = [
    ("idle_timeout", 5, "Ray refuses the file.*idle_timeout"),
    ("max_workers", "twelve", "Ray refuses max_workers.*not of type 'integer'"),
    ("cluster_name", 5, "Ray refuses cluster_name.*not of type 'string'"),
    ("head_node_type", "haed", "Ray refuses"),
    ("docker/pull", True, "Ray refuses docker.*pull"),
    ("auth/user", "ubuntu", "Ray refuses auth.*user"),
    ("available_node_types/gpu-spot/max_worker", 3, "Ray refuses.*max_worker"),
    ("available_node_types/gpu-spot/resources/GPU", 0.5, "Ray refuses.*GPU.*not of type 'integer'"),
    ("available_node_types/decode/resources", REMOVE, "Ray refuses.*resources"),
    ("available_node_types/gpu-spot/priority", "high", "Ray refuses.*priority"),
    ("available_node_types", REMOVE, "Ray refuses"),
    (HEAD_START, "RAY_AUTH_MODE=token ray start --head --dashbord-host=127.0.0.1", "[Nn]o such option.*dashbord"),
    (HEAD_START, "RAY_AUTH_MODE=token ray start --head --port=many", "many.*not a valid integer"),
    (HEAD_START, "RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0", "opens the dashboard"),
    (HEAD_START, "RAY_AUTH_MODE=token ray start", "lacks --head"),
    (HEAD_START, "ray start --head", "RAY_AUTH_MODE=token"),
    (WORKER_START, "ray start --address=$RAY_HEAD_IP:6379", "RAY_AUTH_MODE=token"),
    ("head_start_ray_commands", REMOVE, "Ray's own would open the dashboard"),
    ("docker/image", "mvgan:latest", "no digest"),
    ("docker/head_image", "mvgan:latest", "docker.head_image has no digest"),
    ("docker/worker_image", "mvgan:latest", "docker.worker_image has no digest"),
    (WORKER_START, "RAY_AUTH_MODE=tokenx ray start --address=$RAY_HEAD_IP:6379", "RAY_AUTH_MODE=token"),
    ("docker/run_options", ["-e AWS_SECRET_ACCESS_KEY=abcdefgh"], "AWS_SECRET_ACCESS_KEY looks like a secret"),
    ("setup_commands", ["export WANDB_API_KEY=abcdefgh"], "WANDB_API_KEY looks like a secret"),
    ("file_mounts", {"/home/mvgan/.aws": "~/.aws"}, "your own keys"),
]
ON_AWS = [
    (f"{HEAD}/InstanceTyp", "m7i.xlarge", "AWS refuses.*InstanceTyp"),
    (f"{HEAD}/BlockDeviceMappings/0/Ebs/VolumeSize", "200 GB", "AWS refuses.*VolumeSize"),
    (f"{HEAD}/MetadataOptions/HttpToken", "required", "AWS refuses.*HttpToken"),
    (f"{GPU}/NetworkInterfaces/0/Groups", "sg-1", "AWS refuses.*Groups"),
    (f"{GPU}/InstanceMarketOptions/Spot", True, "AWS refuses.*Spot"),
    (f"{GPU}/IamInstanceProfile", "mvgan", "AWS refuses.*IamInstanceProfile"),
    (f"{HEAD}/IamInstanceProfile", REMOVE, "all rights"),
    (f"{HEAD}/MetadataOptions/HttpTokens", "optional", "HttpTokens"),
    (f"{GPU}/MetadataOptions", REMOVE, "HttpTokens"),
    (f"{HEAD}/BlockDeviceMappings/0/Ebs/Encrypted", False, "not encrypted"),
    (f"{GPU}/BlockDeviceMappings", REMOVE, "not encrypted"),
    (f"{HEAD}/NetworkInterfaces/0/Groups", REMOVE, "open for SSH to everyone"),
    (f"{GPU}/NetworkInterfaces/0/AssociatePublicIpAddress", True, "public address"),
]
ON_GCP = [
    ("provider/project_id", 7, "Ray refuses provider.project_id"),
    (f"{GPU}/networkInterfaces/0/accessConfigs", [{"type": "ONE_TO_ONE_NAT"}], "public address"),
    (f"{GPU}/networkInterfaces", REMOVE, "public address"),
]
PLANTED = [(name, *error) for name in LAUNCHERS for error in ON_BOTH]
PLANTED += [("aws-gpu.yaml", *error) for error in ON_AWS] + [("gcp-gpu.yaml", *error) for error in ON_GCP]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_shipped_files_pass(name: str) -> None:
    check_launcher(load(name))


@pytest.mark.parametrize(
    ("name", "path", "value", "said"), PLANTED, ids=[f"{name}-{path}-{i}" for i, (name, path, *_) in enumerate(PLANTED)]
)
def test_a_planted_error_is_caught(name: str, path: str, value: Any, said: str) -> None:
    config = load(name)
    spoil(config, path, value)
    with pytest.raises(InputError, match=said) as caught:
        check(yaml.safe_dump(config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_machines_of_rays_own_choice_are_refused(name: str) -> None:
    """Ray takes a file without kinds of nodes, and machines of its own default."""
    config = load(name)
    del config["available_node_types"], config["head_node_type"]
    with pytest.raises(InputError, match="available_node_types is missing"):
        check_launcher(config)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_not_filled_in_is_refused(name: str) -> None:
    """Also when one name alone is left, and when it is left in a file that nobody fills in."""
    text = (CLUSTER / name).read_text(encoding="utf-8")
    check(filled(name))
    for missing in sorted(set(re.findall(r"REPLACE_([A-Z][A-Z_]*)", text))):
        with pytest.raises(InputError, match=f"not filled in: {missing}"):
            fill(text, {key: value for key, value in VALUES.items() if key != missing})
        with pytest.raises(InputError, match=f"REPLACE_{missing} is not filled in"):
            check(fill(text.replace(f"REPLACE_{missing}", "LEFT"), VALUES).replace("LEFT", f"REPLACE_{missing}"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE", "mvgan:latest"), ("AMI", "ami-latest"), ("GROUP", "default"), ("SSH_CIDR", "0.0.0.0/0"), ("SSH_CIDR", "::/0"),
        ("SSH_CIDR", "203.0.113.7/8"), ("SSH_CIDR", "here"), ("ACCOUNT", "12"), ("BUCKET", "s3://bucket"), ("BUKET", "b"),
    ],
)  # fmt: skip
def test_values_of_another_form_are_refused(name: str, value: str) -> None:
    with pytest.raises(InputError, match=name):
        fill("x", {name: value})


def test_prepare_writes_what_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path), *(str(CLUSTER / name) for name in SHIPPED), *(f"{name}={value}" for name, value in VALUES.items())])
    assert sorted(path.name for path in tmp_path.iterdir()) == SHIPPED
    assert yaml.safe_load((tmp_path / "aws-gpu.yaml").read_text()) == load("aws-gpu.yaml")
    main([str(tmp_path / "aws-gpu.yaml")])
    assert "aws-gpu.yaml: ok" in capsys.readouterr().out


def test_wrong_calls_are_one_line_and_status_2(tmp_path: Path) -> None:
    """Reference: the command as a user gives it. Nothing is written."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "file").touch()
    shipped, lifecycle = str(CLUSTER / "aws-gpu.yaml"), str(CLUSTER / "aws-lifecycle.json")
    for given, said in [
        ([shipped], "not filled in: AMI"),
        (["REGION=eu-central-1"], "no file is named"),
        ([str(tmp_path / "none.yaml")], "is no file"),
        ([str(tmp_path / "binary.yaml")], "utf-8"),
        ([str(tmp_path / "broken.yaml")], "no YAML"),
        (["--out", str(CLUSTER), lifecycle], "would be overwritten"),
        (["--out", str(tmp_path / "file"), lifecycle], "cannot be written"),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.prepare", *given], cwd=CLUSTER.parent, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (2, ""), (given, done.stderr)
        assert said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["binary.yaml", "broken.yaml", "file"]


def test_a_port_is_closed_by_default() -> None:
    """Reference: Ray's command line. Of the shipped starts, the dashboard listens to its own machine, also by Ray's default."""
    assert start_options("--head")["dashboard_host"] == "127.0.0.1"
    for name in LAUNCHERS:
        assert start_options(load(name)["head_start_ray_commands"][1].split("ray start")[1])["dashboard_host"] == "127.0.0.1"


def test_resources_are_what_machines_have() -> None:
    """Reference: AWS's description of instance types, as moto keeps it."""
    packed = Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz"
    types = json.loads(gzip.decompress(packed.read_bytes()))
    for name, kind in load("aws-gpu.yaml")["available_node_types"].items():
        machine = types[kind["node_config"]["InstanceType"]]
        assert kind["resources"]["CPU"] in (machine["VCpuInfo"]["DefaultVCpus"], 0 if name == "head" else None)
        gpus = sum(gpu["Count"] for gpu in machine.get("GpuInfo", {}).get("Gpus", []))
        assert kind["resources"].get("GPU", 0) == gpus


@pytest.mark.parametrize("name", LAUNCHERS)
def test_spot_first_and_on_demand_after_it_failed(name: str) -> None:
    """Reference: Ray's scheduler of autoscaling v2, for two GPU workers."""
    assert launched(name, {}) == {"gpu-spot": 2}
    assert launched(name, {"gpu-spot": 0.0}) == {"gpu-on-demand": 2}


def launched(name: str, availabilities: dict[str, float]) -> dict[str, int]:
    """Nodes that Ray's scheduler launches for two workers, after launches have failed as `availabilities` says."""
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount

    given = load(name)
    given["auth"].pop("ssh_private_key", None)  # a file, which is read
    config = AutoscalingConfig(prepare_config(given), skip_content_hash=True)
    worker = ResourceRequestUtil.make({"GPU": 1.0, "CPU": 10.0})
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            disable_launch_config_check=True,
            resource_requests=[ResourceRequestByCount(request=worker, count=2)],
            recoverable_resource_availabilities=availabilities,
        )
    )
    found = {request.instance_type: request.count for request in reply.to_launch}
    found.pop("head", None)
    return found


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A made-up AWS with what cluster/README.md sets up, and the configuration filled in for it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    region = VALUES["REGION"]
    with moto.mock_aws():
        ec2, iam = boto3.client("ec2", region_name=region), boto3.client("iam", region_name=region)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24")["Subnet"]["SubnetId"] for i in range(2)]
        for subnet in subnets:
            ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
        group = ec2.create_security_group(GroupName="mvgan", Description="mvgan", VpcId=vpc)["GroupId"]
        ingress = fill((CLUSTER / "aws-ingress.json").read_text(), VALUES | {"GROUP": group})
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=json.loads(ingress))
        for name in ("HEAD_PROFILE", "WORKER_PROFILE"):
            iam.create_instance_profile(InstanceProfileName=VALUES[name])
        key = tmp_path / "key.pem"
        key.write_text(ec2.create_key_pair(KeyName=VALUES["KEY_NAME"])["KeyMaterial"])
        made = {"GROUP": group, "SUBNET_HEAD": subnets[0], "SUBNET_WORKERS": subnets[1], "SSH_KEY": str(key)}
        made["AMI"] = ec2.describe_images()["Images"][0]["ImageId"]
        yield ec2, iam, yaml.safe_load(fill((CLUSTER / "aws-gpu.yaml").read_text(), VALUES | made))


def test_ray_opens_nothing_of_its_own(aws: Any) -> None:
    """Reference: Ray's bootstrap and node provider, and what AWS (moto) then has: no group, no role that Ray made, SSH from one address."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    ec2, iam, config = aws
    before = groups(ec2)
    config = bootstrap_aws(prepare_config(config))
    assert groups(ec2) == before and iam.list_roles()["Roles"] == []
    assert [face for rule in before["mvgan"] for face in rule["IpRanges"]] == [
        {"CidrIp": VALUES["SSH_CIDR"], "Description": "SSH from one place"}
    ]
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {"ray-node-kind": "worker", "ray-launch-config": "x"}
    for name in config["available_node_types"]:
        node = dict(config["available_node_types"][name]["node_config"])
        (made,) = provider.create_node(node, tags, 1)
        instance = ec2.describe_instances(InstanceIds=[made])["Reservations"][0]["Instances"][0]
        assert instance["InstanceType"] == node["InstanceType"]
        assert [group["GroupName"] for face in instance["NetworkInterfaces"] for group in face["Groups"]] == ["mvgan"]
        assert ("PublicIpAddress" in instance) == (name == "head"), name


def groups(ec2: Any) -> dict[str, Any]:
    """Rules of every security group."""
    return {group["GroupName"]: group["IpPermissions"] for group in ec2.describe_security_groups()["SecurityGroups"]}


def test_without_groups_ray_would_open_ssh_to_everyone(aws: Any) -> None:
    """Why the check asks for them."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    ec2, _, config = aws
    for kind in config["available_node_types"].values():
        face = kind["node_config"].pop("NetworkInterfaces")[0]
        kind["node_config"]["SubnetIds"] = [face["SubnetId"]]
    bootstrap_aws(prepare_config(config))
    opened = [face["CidrIp"] for rules in groups(ec2).values() for rule in rules for face in rule["IpRanges"]]
    assert "0.0.0.0/0" in opened
