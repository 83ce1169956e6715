"""The cluster that a command starts on its own machine: closed to whoever has not its token."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.short_run import ROOT, environment


START = """
import os
from mvgan.config import Resources
from mvgan.distributed.resources import session
import ray
with session(Resources()):
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
    input()
"""
ASK = """
import ray, sys
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("connected", len(ray.nodes()))
"""


def ask(address: str, **auth: str) -> subprocess.CompletedProcess[str]:
    """Whether another process may connect."""
    line = [sys.executable, "-c", ASK, address]
    return subprocess.run(line, env={**environment(), **auth}, capture_output=True, text=True, timeout=120)


def test_a_cluster_of_our_own_answers_to_its_token_alone() -> None:
    line = [sys.executable, "-c", START]
    with subprocess.Popen(line, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ours:
        assert ours.stdin and ours.stdout
        address, token = ours.stdout.readline().split()
        callers = {
            "the token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
            "no token": {"RAY_AUTH_MODE": "disabled"},
        }
        with ThreadPoolExecutor(len(callers)) as pool:  # together, as one that is refused tries for long
            asked = dict(zip(callers, pool.map(lambda auth: ask(address, **auth), callers.values()), strict=True))
        ours.stdin.write("\n")
    assert ours.returncode == 0
    told = {caller: "connected 1" in answer.stdout for caller, answer in asked.items()}
    assert told == {"the token": True, "another token": False, "no token": False}, asked
    assert "nauthenticated" in asked["another token"].stderr + asked["no token"].stderr
