"""Trying again while a fault of the network or of the server may pass, and telling the faults that will not.

boto3's own retries do not suffice: `standard` mode ends after a minute on average and shares a quota of retries between
threads, and neither mode asks again for a body that breaks off. So boto3 is left few tries, in `legacy` mode, which has
no quota, and this loop repeats whole operations until a time is over. It is these few lines and no library, since what
takes thought is which errors pass, and no library knows that.
"""

import errno
import itertools
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from mvgan.config import InputError
from mvgan.storage.store import Unreachable


T = TypeVar("T")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
"""Bounds of the wait between two tries, which doubles and is drawn anew each time."""
SKEW_S = 600
"""A clock that differs by more from the server's explains a refused signature; AWS accepts 15 minutes."""
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
PASSING_STATUS = (408, 409, 429)
PASSING = (
    "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded",
    # Altered or cut short on the way, or, of an upload in parts, its completion was done and its answer lost.
    "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "NoSuchUpload", "InvalidPart",
)  # fmt: skip

logger = logging.getLogger(__name__)
_random = random.SystemRandom()  # leaves the state of the program's own random numbers alone


def endure(call: Callable[[], T], seconds: float, where: str) -> T:
    """`call()`, tried again for `seconds` from its first failure on while the error may pass.

    Raises what `lasting` makes of any other error, and Unreachable when the time is over.
    """
    end: float | None = None
    for attempt in itertools.count():
        try:
            return call()
        except Exception as error:
            told = lasting(error, where)
            if told is error:
                raise
            if told is not None:
                raise told from error
            now = time.monotonic()
            end = end or now + seconds
            wait = _random.uniform(0.5, 1) * min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
            reason = " ".join(str(cause(error)).split())
            if now + wait > end:
                raise Unreachable(f"{where}: given up after trying again for {seconds:.0f} s: {reason}") from error
            logger.warning("%s: %s; trying again for up to %.0f s", where, reason, end - now)
            time.sleep(wait)
    raise AssertionError("not reached")


def cause(error: BaseException) -> BaseException:
    """The error of the client below what s3transfer and s3fs made of it."""
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    if isinstance(error, RetriesExceededError):
        return error.last_exception or error
    if isinstance(error, OSError) and isinstance(error.__cause__, ClientError | BotoCoreError):
        return error.__cause__
    return error


def lasting(error: Exception, where: str) -> Exception | None:
    """What to raise for an error that no further try mends, in the words of the Store; None for one that may pass."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    inner = cause(error)
    if isinstance(inner, ClientError):
        return _lasting_answer(inner, where)
    if isinstance(inner, BotoCoreError):
        return _lasting_failure(inner, where)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(where)
    if isinstance(error, PermissionError):
        return InputError(f"{where}: access denied; check the AWS credentials and the bucket's policy")
    return None if isinstance(error, ResponseParserError) or _is_network(error) else error


def _lasting_answer(error: Any, where: str) -> Exception | None:
    """Of an answer of the server."""
    code = str(error.response.get("Error", {}).get("Code"))
    meta = error.response.get("ResponseMetadata", {})
    status = meta.get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return InputError(f"{where}: there is no bucket {where.split('/')[2]!r}; create it or give another one")
    if code in ("NoSuchKey", "404", "NotFound"):
        return FileNotFoundError(where)
    if code == "InvalidObjectState":
        return PermissionError(errno.EACCES, "it is in an archive, from which it must be restored first", where)
    if status == 412:
        return error  # the caller's condition
    if code in PASSING or status in PASSING_STATUS or (status >= 500 and status != 501):
        return None
    # The answer to a HEAD has no body to name a skewed clock, but every answer has a date.
    skew_s = clock_ahead_s(meta.get("HTTPHeaders", {})) or 0.0
    if code == "RequestTimeTooSkewed" or (status == 403 and abs(skew_s) > SKEW_S):
        ahead = "ahead of" if skew_s > 0 else "behind"
        return InputError(f"{where}: the clock of this machine is {abs(skew_s):.0f} s {ahead} the server's; set it, or start NTP")
    if status in (401, 403) or code in REFUSED:
        return InputError(f"{where}: access denied ({code}); check the AWS credentials and the bucket's policy")
    if status in (301, 307) or code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        return InputError(f"{where}: the bucket is in another region ({code}); set AWS_REGION to its region")
    message = error.response.get("Error", {}).get("Message", "")
    return InputError(f"{where}: the server refuses the request ({code} {status}: {message}); check the bucket's name and AWS_ENDPOINT_URL")


def _lasting_failure(error: Exception, where: str) -> Exception | None:
    """Of a request that got no answer, or was never made."""
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return InputError(f"{where}: no AWS credentials found; set AWS_PROFILE, AWS_ACCESS_KEY_ID or an instance role")
    passing = (
        exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError,
        exceptions.ChecksumError, exceptions.FlexibleChecksumError,
        exceptions.CredentialRetrievalError, exceptions.MetadataRetrievalError,
    )  # fmt: skip
    if isinstance(error, passing) and "CERTIFICATE_VERIFY_FAILED" not in str(error):
        return None
    return InputError(f"{where}: {error}; check the bucket's name, AWS_ENDPOINT_URL, AWS_PROFILE and the network")


def clock_ahead_s(headers: dict[str, str]) -> float | None:
    """How far this machine's clock is ahead of the server's, by the date of its answer, to a second; None when it gave none."""
    try:
        return (datetime.now(UTC) - parsedate_to_datetime(headers["date"])).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None


def _is_network(error: Exception) -> bool:
    """Errors of sockets below the clients; the others of the operating system (disk full) are no matter of S3."""
    from urllib3.exceptions import HTTPError

    network = isinstance(error, HTTPError | ConnectionError | TimeoutError) or type(error).__module__.startswith("aiohttp")
    return network or (isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EIO, errno.ENETUNREACH, errno.EHOSTUNREACH))
