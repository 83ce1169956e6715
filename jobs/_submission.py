"""Jobs on a cluster through the API of its head, as a client outside of it sees them.

Not in mvgan.distributed, which gives this process a token for a cluster of its own: here the user's own token counts.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from mvgan.config import Ended, InputError


STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Whole seconds from SIGTERM to SIGKILL of a job that is stopped; Ray reads it among the job's own variables, and takes 3 without."""

NOT_YET, BEGIN_S = "No available agent to submit job", 60.0
"""What a head answers whose processes have not all begun, and how long they may take."""

TALKS = ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.working_dir")
"""Parts of Ray that tell of each upload; what they give a level of their own does not follow that of `ray`."""

POLL_S = 1.0
"""Time between two looks whether a job has ended."""


@dataclass(frozen=True)
class Outcome:
    """How a job has ended."""

    what: str
    """`succeeded`, `failed` or `was stopped`."""
    status: int
    """Exit status of its command; 1 if it has none."""
    message: str
    """What Ray says of a job whose command could not begin."""


class Head:
    """The head of a cluster at an http(s) address, asked with the token of this user (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)."""

    def __init__(self, address: str) -> None:
        """Raises InputError when nobody answers there, or refuses the token."""
        self.address = address
        for talks in TALKS:
            logging.getLogger(talks).setLevel(logging.ERROR)
        with self._told():
            self.client = JobSubmissionClient(address)

    def submit(self, entrypoint: str, working_dir: str, variables: Mapping[str, str], stop_wait_s: int, name: str | None) -> str:
        """Upload `working_dir` but for its .rayignore, and start the command there; returns the job's id. Raises InputError."""
        runtime_env = {"working_dir": working_dir, "env_vars": {**variables, STOP_WAIT: str(stop_wait_s)}}
        deadline = time.monotonic() + BEGIN_S
        with self._told():
            while True:
                try:
                    return self.client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, submission_id=name)
                except RuntimeError as error:
                    if NOT_YET not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(POLL_S)

    def follow(self, name: str, say: Callable[[str], None]) -> Outcome:
        """Pass on what a job says until it has ended. Raises Ended when the head does not answer any more."""
        try:
            try:
                asyncio.run(self._tail(name, say))
            except (RuntimeError, aiohttp.ClientError) as error:
                say(f"the log cannot be followed any more ({' '.join(str(error).split())}); waits for the end of the job\n")
            while not (job := self.client.get_job_info(name)).status.is_terminal():
                time.sleep(POLL_S)
        except (OSError, RuntimeError, AuthenticationError) as error:
            raise Ended(f"{self.address} does not answer any more ({_line(error)}); the job {name} may be at work still") from None
        if job.status == JobStatus.SUCCEEDED:
            return Outcome("succeeded", 0, "")
        code = job.driver_exit_code
        # A command that a signal has ended has its number, below 0; a shell says 128 more than that.
        status = 1 if not code else code if code > 0 else 128 - code
        return Outcome("was stopped" if job.status == JobStatus.STOPPED else "failed", status, "" if code else job.message or "")

    async def _tail(self, name: str, say: Callable[[str], None]) -> None:
        async for lines in self.client.tail_job_logs(name):
            say(lines)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the API as lines."""
        try:
            yield
        except AuthenticationError:
            raise InputError(
                f"the head at {self.address} refuses this user's token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with "
                "that of the cluster (by default ~/.ray/auth_token)"
            ) from None
        except OSError as error:  # of whatever kind: requests has its own
            raise InputError(
                f"no head of Ray answers at {self.address} ({type(error).__name__}); open the tunnel to it (`ray dashboard CLUSTER.yaml`), "
                "or give its --address"
            ) from None
        except RuntimeError as error:
            raise InputError(f"the head at {self.address} has refused: {_line(error)}") from None


def _line(error: BaseException) -> str:
    """The last line of what an error says: the API answers with tracebacks, and a full stop after them."""
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"\w", line)]
    return lines[-1] if lines else type(error).__name__
