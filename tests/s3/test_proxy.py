"""The fault proxy does to a request what it says, seen by a client that retries nothing."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError, IncompleteReadError, ResponseStreamingError

from tests.s3.proxy import FaultProxy, Request, Rule, sometimes


DATA = bytes(range(256)) * 40


@pytest.fixture
def name(bucket: str) -> str:
    return bucket.removeprefix("s3://")


def client(**settings: Any) -> Any:
    return boto3.client("s3", config=Config(retries={"total_max_attempts": 1}, **settings))


def keys(name: str) -> list[str]:
    return [item["Key"] for item in client().list_objects_v2(Bucket=name).get("Contents", ())]


def test_without_rules_nothing_changes(fault_proxy: FaultProxy, name: str) -> None:
    once = client()
    for size in (0, 1, len(DATA), 9 * 2**20):
        data = (DATA * (size // len(DATA) + 1))[:size]
        once.put_object(Bucket=name, Key="a b/ü", Body=data)
        assert once.get_object(Bucket=name, Key="a b/ü")["Body"].read() == data
        assert once.head_object(Bucket=name, Key="a b/ü")["ContentLength"] == size
    once.delete_object(Bucket=name, Key="a b/ü")
    assert keys(name) == []
    assert [request.method for request in fault_proxy.requests(clear=True)] == ["PUT", "GET", "HEAD"] * 4 + ["DELETE", "GET"]
    assert fault_proxy.requests() == []


@pytest.mark.parametrize("fault", ["status", "reset", "hang"])
def test_faults_before_the_server(fault_proxy: FaultProxy, name: str, fault: Any) -> None:
    fault_proxy.fail(Rule(fault, method="PUT", seconds=0.2))
    start = time.monotonic()
    with pytest.raises((ClientError, ConnectionClosedError, HTTPClientError)) as error:
        client().put_object(Bucket=name, Key="k", Body=DATA)
    assert isinstance(error.value, ClientError) == (fault == "status")
    if fault == "hang":
        assert time.monotonic() - start >= 0.2
    fault_proxy.heal()
    assert keys(name) == []


def test_statuses(fault_proxy: FaultProxy, name: str) -> None:
    for status, reason in ((403, "AccessDenied"), (500, "InternalError"), (503, "SlowDown")):
        fault_proxy.fail(Rule("status", status=status))
        with pytest.raises(ClientError) as error:
            client().put_object(Bucket=name, Key="k", Body=DATA)
        assert error.value.response["Error"]["Code"] == reason
        with pytest.raises(ClientError) as error:
            client().head_object(Bucket=name, Key="k")
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_a_lost_acknowledgement_has_been_applied(fault_proxy: FaultProxy, name: str) -> None:
    fault_proxy.fail(Rule("lost_ack", method="PUT"))
    with pytest.raises(ConnectionClosedError):
        client().put_object(Bucket=name, Key="k", Body=DATA)
    assert keys(name) == ["k"]


def test_truncated(fault_proxy: FaultProxy, name: str) -> None:
    client().put_object(Bucket=name, Key="k", Body=DATA)
    for keep, length in ((None, len(DATA) // 2), (1000, 1000)):
        fault_proxy.fail(Rule("truncate", method="GET", keep=keep))
        body = client().get_object(Bucket=name, Key="k")["Body"]
        assert body.read(length) == DATA[:length]
        with pytest.raises((IncompleteReadError, ResponseStreamingError)):
            body.read(1)


def test_held_until_released(fault_proxy: FaultProxy, name: str) -> None:
    rule = Rule("hold", method="PUT")
    fault_proxy.fail(rule)
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(client().put_object, Bucket=name, Key="k", Body=DATA)
        assert rule.reached.wait(10)
        assert keys(name) == []
        rule.release()
        put.result(10)
    assert keys(name) == ["k"]


def test_latency(fault_proxy: FaultProxy, name: str) -> None:
    fault_proxy.fail(Rule("latency", seconds=0.3))
    start = time.monotonic()
    client().put_object(Bucket=name, Key="k", Body=DATA)
    assert time.monotonic() - start >= 0.3


def test_rules_select(fault_proxy: FaultProxy, name: str) -> None:
    once = client()
    fault_proxy.fail(Rule("status", method="PUT", match=r"/hit", skip=1, count=2), Rule("reset", match="never"))
    for key, struck in (("hit0", False), ("miss", False), ("hit1", True), ("hit2", True), ("hit3", False)):
        if struck:
            with pytest.raises(ClientError):
                once.put_object(Bucket=name, Key=key, Body=b"")
        else:
            once.put_object(Bucket=name, Key=key, Body=b"")
    assert keys(name) == ["hit0", "hit3", "miss"]
    assert fault_proxy.requests()[2] == Request("PUT", f"/{name}/hit1", "status")


def test_a_share_of_all_requests() -> None:
    """The share, from the rules alone: 3 of 4 faults at 2 % each are within 5 standard deviations of 20,000 draws."""
    proxy = FaultProxy("http://127.0.0.1:1", seed=3)
    proxy.fail(*sometimes(0.08, Rule("status"), Rule("reset"), Rule("hang"), Rule("truncate")))
    for _ in range(20000):
        proxy._struck("GET", "/")
    proxy.stop()
    struck = [request.fault for request in proxy.requests()]
    for fault in ("status", "reset", "hang", "truncate"):
        assert abs(struck.count(fault) - 400) < 5 * (20000 * 0.02 * 0.98) ** 0.5


def test_a_server_that_is_gone_looks_like_one() -> None:
    gone = socket.create_server(("127.0.0.1", 0))
    proxy = FaultProxy(f"http://127.0.0.1:{gone.getsockname()[1]}")
    gone.close()
    with socket.create_connection(("127.0.0.1", int(proxy.endpoint.rsplit(":", 1)[1]))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(100) == b""
    proxy.stop()
