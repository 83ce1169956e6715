"""Rights and rules on AWS.

Reference: the grammar of policies in moto and in cfn-lint, moto's evaluation of rights, botocore's parameters.
"""

import json
from pathlib import Path
from typing import Any

import boto3
import cfnlint
import jsonschema
import pytest
from botocore.validate import ParamValidator
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.exceptions import MalformedPolicyDocument
from moto.iam.policy_validation import IAMPolicyDocumentValidator, IAMTrustPolicyDocumentValidator

from tests.unit.cluster.files import REMOVE, VALUES, load, spoil


RIGHTS = ("aws-policy.json", "aws-head-policy.json")
BUCKET = f"arn:aws:s3:::{VALUES['BUCKET']}"


def errors(name: str, document: Any) -> list[str]:
    """What the grammar of its kind has against a document."""
    if name == "aws-lifecycle.json":
        return by_botocore("s3", "PutBucketLifecycleConfiguration", {"Bucket": "b", "LifecycleConfiguration": document})
    if name == "aws-ingress.json":
        return by_botocore("ec2", "AuthorizeSecurityGroupIngress", {"GroupId": "sg-1", "IpPermissions": document})
    validator = IAMTrustPolicyDocumentValidator if name == "aws-trust.json" else IAMPolicyDocumentValidator
    try:
        validator(json.dumps(document)).validate()
    except MalformedPolicyDocument as error:
        return [str(error)]
    return by_schema(document) if name in RIGHTS else []


def by_botocore(service: str, operation: str, given: dict[str, Any]) -> list[str]:
    shape = boto3.client(service, region_name="us-east-1").meta.service_model.operation_model(operation).input_shape
    report = ParamValidator().validate(given, shape)
    return [report.generate_report()] if report.has_errors() else []


def by_schema(document: Any) -> list[str]:
    """By cfn-lint's schema of policies that belong to a role, whose references are files beside it."""
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    folder = Path(cfnlint.__file__).parent / "data" / "schemas" / "other" / "iam"
    schemas = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("policy", "policy_identity")}
    registry = Registry().with_resources([("policy", Resource(schemas["policy"], DRAFT202012))])
    return [error.message for error in jsonschema.Draft202012Validator(schemas["policy_identity"], registry=registry).iter_errors(document)]


@pytest.mark.parametrize("name", [*RIGHTS, "aws-trust.json", "aws-lifecycle.json", "aws-ingress.json"])
def test_shipped_files_pass(name: str) -> None:
    assert errors(name, load(name)) == []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        *((name, *error) for name in RIGHTS for error in [
            ("Version", "2026-01-01"), ("Statement/0/Effect", "allow"), ("Statement/0/Actions", "s3:*"), ("Statement/0/Resource", REMOVE),
            ("Statement/1/Action", "ListBucket"), ("Statement/1/Resource", "bucket"), ("Statement/0/Principal", "*"),
            ("Statement/0/Condition", {"StringLooksLike": {"s3:prefix": "runs"}}), ("Statement", REMOVE),
        ]),
        ("aws-trust.json", "Statement/0/Action", "sts:Assume"), ("aws-trust.json", "Statement/0/Resource", "*"),
        ("aws-lifecycle.json", "Rules/0/Status", REMOVE),
        ("aws-lifecycle.json", "Rules/0/AbortIncompleteMultipartUpload/Days", 7),
        ("aws-lifecycle.json", "Rules/0/AbortIncompleteMultipartUpload/DaysAfterInitiation", "7"),
        ("aws-ingress.json", "1/FromPort", "ssh"), ("aws-ingress.json", "1/IpRange", []),
    ],
)  # fmt: skip
def test_a_planted_error_is_caught(name: str, path: str, value: Any) -> None:
    document = load(name)
    spoil(document, path, value)
    assert errors(name, document)


def allowed(name: str, action: str, resource: str) -> bool:
    return IAMPolicy({"policy_document": json.dumps(load(name))}).is_action_permitted(action, resource) == PermissionResult.PERMITTED


@pytest.mark.parametrize("action", ["GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts"])
def test_a_run_may_use_its_prefix_alone(action: str) -> None:
    """These are what mvgan/storage/s3.py calls; videos are read only, other prefixes and buckets are shut."""
    right = f"s3:{action}"
    assert allowed("aws-policy.json", right, f"{BUCKET}/runs/faces/run.json")
    assert allowed("aws-policy.json", right, f"{BUCKET}/videos/a.mp4") == (action == "GetObject")
    for other in (f"{BUCKET}/payroll.csv", f"{BUCKET}/runs2/x", f"{BUCKET}-other/runs/faces/run.json"):
        assert not allowed("aws-policy.json", right, other)


@pytest.mark.parametrize(
    "right", ["s3:PutBucketPolicy", "s3:DeleteBucket", "s3:PutLifecycleConfiguration", "iam:PassRole", "ec2:RunInstances"]
)
def test_workers_may_nothing_else(right: str) -> None:
    assert not allowed("aws-policy.json", right, BUCKET)


def test_the_head_passes_on_one_role_alone() -> None:
    role = f"arn:aws:iam::{VALUES['ACCOUNT']}:role/"
    assert allowed("aws-head-policy.json", "iam:PassRole", role + VALUES["WORKER_PROFILE"])
    assert not allowed("aws-head-policy.json", "iam:PassRole", role + "Administrator")
    assert not allowed("aws-head-policy.json", "iam:CreateRole", role + "x")
