"""The server of these tests is no emulator: it refuses what S3 refuses. Requests by boto3, without our code."""

import base64
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.s3.server import S3Server


ONCE = Config(retries={"total_max_attempts": 1}, max_pool_connections=12)


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_a_wrong_secret_is_refused(s3_server: S3Server, bucket: str) -> None:
    name = bucket.removeprefix("s3://")
    boto3.client("s3").put_object(Bucket=name, Key="mine", Body=b"1")
    stranger = boto3.client("s3", aws_access_key_id=s3_server.access_key, aws_secret_access_key="wrong" * 8)
    nobody = boto3.client("s3", aws_access_key_id="UNKNOWN", aws_secret_access_key=s3_server.secret_key)
    for client, expected in ((stranger, "SignatureDoesNotMatch"), (nobody, "InvalidAccessKeyId")):
        with pytest.raises(ClientError) as error:
            client.get_object(Bucket=name, Key="mine")
        assert code(error) == expected
        with pytest.raises(ClientError) as error:
            client.put_object(Bucket=name, Key="mine", Body=b"2")
        assert code(error) == expected
    assert boto3.client("s3").get_object(Bucket=name, Key="mine")["Body"].read() == b"1"


def test_altered_data_are_refused(bucket: str) -> None:
    name, client = bucket.removeprefix("s3://"), boto3.client("s3", config=ONCE)
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=name, Key="k", Body=b"data", ContentMD5=wrong)
    assert code(error) == "BadDigest"
    assert client.list_objects_v2(Bucket=name)["KeyCount"] == 0


def test_an_altered_body_does_not_fit_its_signature(bucket: str) -> None:
    """What protects our uploads here: the signature covers the sha256 of the body."""
    name, client = bucket.removeprefix("s3://"), boto3.client("s3", config=ONCE)

    def alter(request: Any, **_: Any) -> None:
        request.body = b"DATA"

    client.meta.events.register("before-send.s3.PutObject", alter)
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=name, Key="k", Body=b"data")
    assert code(error) == "XAmzContentSHA256Mismatch"
    assert client.list_objects_v2(Bucket=name)["KeyCount"] == 0


def test_a_race_of_conditional_puts_has_one_winner(bucket: str) -> None:
    name = bucket.removeprefix("s3://")
    client = boto3.client("s3", config=ONCE)
    barrier = threading.Barrier(12)

    def race(i: int) -> str:
        barrier.wait()
        try:
            client.put_object(Bucket=name, Key=f"race/{turn}", Body=str(i).encode(), IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "won"

    for turn in range(5):
        with ThreadPoolExecutor(12) as pool:
            outcomes = list(pool.map(race, range(12)))
        assert outcomes.count("won") == 1, outcomes
        assert set(outcomes) <= {"won", "PreconditionFailed", "ConditionalRequestConflict"}
        winner = client.get_object(Bucket=name, Key=f"race/{turn}")["Body"].read()
        assert int(winner) == outcomes.index("won")
