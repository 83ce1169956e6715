"""Which faults of S3 are tried again, for how long, and how the others are told."""

import errno
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from botocore import exceptions
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from botocore.session import Session
from s3fs.errors import translate_boto_error
from s3transfer.exceptions import RetriesExceededError

from mvgan.config import InputError
from mvgan.storage import endure as module
from mvgan.storage import s3 as s3_store
from mvgan.storage.endure import endure
from mvgan.storage.uri import Unreachable, open_store


URL = {"endpoint_url": "http://127.0.0.1:1"}
WHERE = "s3://bucket/run/file"


def answer(code: str, status: int, **headers: str) -> ClientError:
    meta: Any = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": "said the server"}, "ResponseMetadata": meta}, "GetObject")


class Clock:
    """A clock that only sleeping moves, and each call by `call_s`."""

    def __init__(self) -> None:
        self.now, self.waits = 1000.0, []  # type: tuple[float, list[float]]

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def failing(error: BaseException, times: int) -> Callable[[], str]:
    left = [times]

    def call() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "done"

    return call


@pytest.mark.parametrize(
    "error",
    [
        answer("SlowDown", 503), answer("InternalError", 500), answer("503", 503), answer("RequestTimeout", 400),
        answer("TooManyRequests", 429), answer("ConditionalRequestConflict", 409), answer("BadDigest", 400), answer("NoSuchUpload", 404),
        exceptions.EndpointConnectionError(error="refused", **URL), exceptions.ReadTimeoutError(error="hang", **URL),
        exceptions.ConnectTimeoutError(error="hang", **URL), exceptions.ConnectionClosedError(**URL),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), exceptions.ResponseStreamingError(error="cut"),
        exceptions.FlexibleChecksumError(error_msg="altered on the way"), ResponseParserError("no XML"),
        exceptions.CredentialRetrievalError(provider="container-role", error_msg="timed out"),
        exceptions.MetadataRetrievalError(error_msg="timed out"),
        RetriesExceededError(exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2)),
        translate_boto_error(answer("SlowDown", 503)), translate_boto_error(answer("500", 500)), ClientPayloadError("cut short"),
        ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError("hang"),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again(error: Exception, clock: Clock) -> None:
    assert endure(failing(error, 9), 120, WHERE) == "done"
    assert len(clock.waits) == 9
    with pytest.raises(Unreachable, match=f"{WHERE}: given up after trying again for 120 s"):
        endure(failing(error, 10**6), 120, WHERE)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answer("NoSuchBucket", 404), "there is no bucket 'bucket'; create it"),
        (translate_boto_error(answer("NoSuchBucket", 404)), "there is no bucket 'bucket'"),
        (answer("AccessDenied", 403), "access denied \\(AccessDenied\\); check the AWS credentials"),
        (translate_boto_error(answer("403", 403)), "access denied \\(403\\)"),
        (answer("InvalidAccessKeyId", 403), "access denied"),
        (answer("ExpiredToken", 400), "access denied \\(ExpiredToken\\)"),
        (exceptions.NoCredentialsError(), "no AWS credentials found; set AWS_PROFILE"),
        (exceptions.ProfileNotFound(profile="x"), "The config profile \\(x\\) could not be found"),
        (answer("PermanentRedirect", 301), "in another region"),
        (answer("NotImplemented", 501), "refuses the request \\(NotImplemented 501: said the server\\)"),
        (exceptions.SSLError(error="CERTIFICATE_VERIFY_FAILED", **URL), "CERTIFICATE_VERIFY_FAILED"),
        (answer("RequestTimeTooSkewed", 403), "the clock of this machine"),
    ],
)  # fmt: skip
def test_what_will_not_pass_is_told_at_once_in_one_line(error: Exception, message: str, clock: Clock) -> None:
    with pytest.raises(InputError, match=f"^{WHERE}: .*{message}") as told:
        endure(failing(error, 1), 120, WHERE)
    assert clock.waits == []
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [answer("InvalidObjectState", 403), translate_boto_error(answer("InvalidObjectState", 403))])
def test_an_object_in_an_archive_is_no_matter_of_credentials(error: Exception, clock: Clock) -> None:
    with pytest.raises(PermissionError, match="in an archive"):
        endure(failing(error, 1), 120, WHERE)


def test_a_store_can_be_bounded(clock: Clock, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is rooted in one of its folders; without a bound a write is tried for longer."""
    monkeypatch.setattr(s3_store, "client", failing(answer("SlowDown", 503), 10**6))
    bounded = open_store(f"{s3}/run").bounded(20).at("pairs")
    for store, seconds in ((bounded, 20), (open_store(f"{s3}/run"), s3_store.WRITE_S)):
        with pytest.raises(Unreachable, match=f"given up after trying again for {seconds:.0f} s"):
            store.write("file", b"")


def test_credentials_of_a_role_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By boto3, which asks once of itself."""
    assert Session().get_config_variable("metadata_service_num_attempts") == s3_store.ROLE_TRIES


def test_a_skewed_clock_is_told_even_of_an_answer_without_a_body(clock: Clock) -> None:
    for minutes, words in ((20, "1[12].. s behind the server's; set it"), (-20, "1[12].. s ahead of the server's")):
        date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes))
        with pytest.raises(InputError, match=words):
            endure(failing(answer("403", 403, date=date), 1), 120, WHERE)
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=2))
    with pytest.raises(InputError, match="access denied"):
        endure(failing(answer("403", 403, date=date), 1), 120, WHERE)


def test_what_is_no_fault_of_s3_goes_through(clock: Clock) -> None:
    for error in (KeyError("bug"), OSError(errno.ENOSPC, "disk full"), answer("PreconditionFailed", 412)):
        with pytest.raises(type(error)) as raised:
            endure(failing(error, 1), 120, WHERE)
        assert raised.value is error
    with pytest.raises(FileNotFoundError, match=WHERE):
        endure(failing(answer("404", 404), 1), 120, WHERE)
    assert clock.waits == []


def test_waits_double_within_bounds_and_differ(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    call = failing(answer("SlowDown", 503), 10**6)
    with caplog.at_level(logging.WARNING), pytest.raises(Unreachable):
        endure(call, 120, WHERE)
    for index, wait in enumerate(clock.waits):
        most = min(module.FIRST_WAIT_S * 2**index, module.LONGEST_WAIT_S)
        assert most / 2 <= wait <= most
    assert len({wait / module.LONGEST_WAIT_S for wait in clock.waits[5:]}) > 3
    assert 108 <= clock.now - 1000 <= 120
    assert "SlowDown" in caplog.text and "trying again for up to 120 s" in caplog.text


def test_the_time_counts_from_the_first_failure(clock: Clock) -> None:
    """A long upload that fails near its end is tried again."""
    tries = []

    def upload() -> None:
        tries.append(clock.now)
        clock.now += 1000
        if len(tries) < 3:
            raise answer("SlowDown", 503)

    with pytest.raises(Unreachable):
        endure(upload, 300, WHERE)
    assert len(tries) == 2


class Faults:
    """Makes the next requests to S3 fail before they are sent."""

    def __init__(self, count: int) -> None:
        self.left, self.lock = count, threading.Lock()

    def __call__(self, **_: Any) -> None:
        with self.lock:
            self.left -= 1
            if self.left >= 0:
                raise exceptions.ConnectionClosedError(**URL)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits too short to be worth it; the tries are as many."""
    monkeypatch.setattr("botocore.endpoint.time", Clock())
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.001)


def test_every_operation_of_s3_endures(s3: str, quick: None) -> None:
    store = open_store(f"{s3}/endures")
    store.write("large", bytes(9 * 2**20))
    store.write("gone", b"x")
    operations: list[Callable[[], bool]] = [
        lambda: store.read("large") == bytes(9 * 2**20),
        lambda: store.write("large", b"new") is None and store.read("large") == b"new",
        lambda: store.write("parts", bytes(9 * 2**20)) is None and store.size("parts") == 9 * 2**20,
        lambda: store.create("once", b"mine") and store.read("once") == b"mine",
        lambda: "gone" in store.list(),
        lambda: store.size("gone") == 1,
        lambda: store.delete("gone") is None and not store.exists("gone"),
    ]
    events = s3_store.client().meta.events
    for operation in operations:
        faults = Faults(3 * s3_store.CLIENT_TRIES + 1)
        events.register("before-send.s3", faults)
        try:
            assert operation()
        finally:
            events.unregister("before-send.s3", faults)
        assert faults.left < 0


def test_reading_parts_endures(s3: str, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever s3fs gives up on is asked for again, from the same place; the faults are put below s3fs."""
    import s3fs.core

    store = open_store(f"{s3}/parts")
    data = bytes(range(256)) * 20_000
    store.write("file", data)
    fetch, left = s3fs.core._fetch_range, [0]

    def faulty(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EBUSY, "SlowDown") from answer("SlowDown", 503)
        return fetch(*args, **options)

    monkeypatch.setattr(s3fs.core, "_fetch_range", faulty)
    with store.open("file") as file:
        for start, size in ((3_000_000, 5), (0, 1_500_000), (5_119_999, 10)):
            left[0] = 7
            file.seek(start)
            assert file.read(size) == data[start : start + size]
            assert left[0] < 0 and file.tell() == min(start + size, len(data))


def test_an_endpoint_that_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("ENDPOINT_URL", "http://127.0.0.1:9"),
        ("ACCESS_KEY_ID", "x"),
        ("SECRET_ACCESS_KEY", "x"),
        ("DEFAULT_REGION", "r"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(s3_store, "READ_S", 0.5)
    s3_store._client.cache_clear()
    start = time.monotonic()
    try:
        with pytest.raises(Unreachable, match="Could not connect to the endpoint"):
            open_store("s3://bucket/x").list()
    finally:
        s3_store._client.cache_clear()
    assert time.monotonic() - start < 20
