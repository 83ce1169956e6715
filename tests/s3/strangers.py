"""Buckets of another user of the S3 server, in which ours may do what a policy says and nothing else."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import boto3

from tests.s3.server import S3Server, bucket_name


RIGHTS = {
    "list": ("s3:ListBucket", ""),
    "read": ("s3:GetObject", "/*"),
    "write": ("s3:PutObject", "/*"),
    "delete": ("s3:DeleteObject", "/*"),
}
"""The right that each is, and of what: the bucket or its objects."""


class Stranger:
    """Another user, with a client of its own. Our clients go on with our keys."""

    def __init__(self, server: S3Server) -> None:
        self.name = bucket_name()
        access_key, secret_key = server.new_user(self.name)
        self.client: Any = boto3.client("s3", aws_access_key_id=access_key, aws_secret_access_key=secret_key)

    def bucket(self, rights: Mapping[str, Sequence[str]], denied: Sequence[str] = ()) -> str:
        """The name of a new bucket. rights: by a prefix within the bucket (empty for all of it) what we may do there.

        denied: what we may not do even with what we have put there ourselves, which is ours.
        """
        name = bucket_name()
        self.client.create_bucket(Bucket=name)
        ours = {"AWS": ["arn:aws:iam:::user/test"]}
        statements = [
            {"Effect": "Allow", "Principal": ours, "Action": action, "Resource": f"arn:aws:s3:::{name}{below and prefix + below}"}
            for prefix, given in rights.items()
            for action, below in (RIGHTS[right] for right in given)
        ]
        for action, below in (RIGHTS[right] for right in denied):
            statements.append({"Effect": "Deny", "Principal": ours, "Action": action, "Resource": f"arn:aws:s3:::{name}{below}"})
        if statements:
            self.client.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
        return name

    def keys(self, bucket: str) -> list[str]:
        """All objects there."""
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=bucket).get("Contents", ())]
