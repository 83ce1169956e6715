"""A head as cluster/ starts it, closed: who is refused, what listens, where secrets are not, and what submissions it takes.

References: raw calls of HTTP and gRPC without the token, the process table's own sockets, and bytes of the session's files.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import grpc
import psutil
import pytest

from jobs.submit import verbs
from mvgan.storage.uri import open_store
from tests.ray.head import Head, ask, started
from tests.s3.fixtures import clients_at
from tests.s3.server import S3Server, bucket_name


WRONG = "0" * 64
API = """
/api/version /api/jobs/ /nodes?view=summary /nodes?view=hostNameList /api/cluster_status /logical/actors /events /metrics
/api/v0/jobs?detail=1 /api/v0/actors?detail=1 /api/v0/tasks?detail=1 /api/v0/workers?detail=1 /api/v0/runtime_envs?detail=1
/api/v0/objects?detail=1 /api/v0/nodes?detail=1 /api/v0/placement_groups?detail=1
""".split()
"""What the dashboard can be asked for."""

CALLS = {
    "gcs_server": ["/ray.rpc.InternalKVGcsService/InternalKVKeys"],
    "raylet": ["/ray.rpc.NodeManagerService/GetNodeStats", "/ray.rpc.ObjectManagerService/Pull"],
    "ray.util.client.server": ["/ray.rpc.RayletDriver/Init"],
    "ray::DashboardAgent": ["/ray.rpc.ReporterService/GetTraceback"],
    "ray::RuntimeEnvAgent": [],
}
"""Programs that may listen on other addresses than loopback, as other nodes call them, and a call by gRPC that each answers."""

METRICS = ("dashboard.py", "monitor.py")
"""Programs that give metrics there, and nothing else, at ports 44227 and 44217; where another head has these they do not."""


@pytest.fixture(scope="module")
def place(s3_server: S3Server) -> Iterator[tuple[Head, str]]:
    """A head that finds a server of S3, and a bucket there."""
    with clients_at(s3_server.environment()):
        bucket = bucket_name()
        boto3.client("s3").create_bucket(Bucket=bucket)
        with started() as head:
            yield head, bucket


def program(process: psutil.Process) -> str:
    """What a process of Ray is."""
    words = " ".join(process.cmdline())
    known = [name for name in (*CALLS, *METRICS) if name in words]
    return known[0] if known else words


def listening(head: Head) -> Iterator[tuple[str, str, int]]:
    """The program, host and port of each socket that takes connections; processes of Ray may end meanwhile."""
    for process in psutil.Process(head.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            name, sockets = program(process), process.net_connections(kind="inet")
            for socket in sockets:
                if socket.status == psutil.CONN_LISTEN:
                    yield name, socket.laddr.ip.removeprefix("::ffff:"), socket.laddr.port


def called(address: str, method: str, token: str | None) -> str:
    """How a server answers a call by gRPC with an empty message."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)(b"", metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def answers(name: str, host: str, port: int, token: str | None) -> str:
    """What a listening socket of a program tells a caller: the status of HTTP that it answers, or how it answers calls by gRPC."""
    status, text = ask(f"http://{host}:{port}/", token)
    if status:
        return "metrics" if "# HELP" in text else str(status)
    found = {called(f"{host}:{port}", method, token) for method in CALLS.get(name, [])} - {"UNIMPLEMENTED"}  # the raylet has two servers
    return " ".join(sorted(found))


def test_nothing_listens_that_answers_without_the_token(place: tuple[Head, str]) -> None:
    """But the metrics, which Ray gives to whoever reaches their port: cluster/ opens that to its own nodes alone."""
    head, _ = place
    told: dict[str, set[tuple[str, str]]] = {}
    for name, host, port in listening(head):
        if host.startswith("127.") or host == "::1":
            assert name in (*METRICS, *CALLS), name
            continue
        reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        told.setdefault(name, set()).add(tuple(answers(name, reached, port, token) for token in (None, WRONG)))
    refused, http = ("UNAUTHENTICATED", "UNAUTHENTICATED"), ("401", "403")
    assert told["gcs_server"] == {refused} and told["raylet"] == {refused}
    assert told["ray::DashboardAgent"] <= {refused, http, ("metrics", "metrics")} and refused in told["ray::DashboardAgent"]
    assert told["ray.util.client.server"] == {refused}
    assert told.get("ray::RuntimeEnvAgent", {http}) == {http}
    for name in METRICS:
        assert told.pop(name, {("metrics", "metrics")}) == {("metrics", "metrics")}
    assert told.keys() <= CALLS.keys(), told.keys() - CALLS.keys()


def test_dashboard_jobs_and_clients_ask_for_the_token(place: tuple[Head, str]) -> None:
    head, _ = place
    for path in API:
        assert [head.ask(path, token)[0] for token in (None, WRONG)] == [401, 403], path
    assert head.ask("/api/jobs/", head.token)[0] == 200
    for method in ("POST", "DELETE"):
        assert [head.ask("/api/jobs/x", token, method)[0] for token in (None, WRONG)] == [401, 403], method
    client = f"127.0.0.1:{head.client_port}"
    for address, method in ((client, CALLS["ray.util.client.server"][0]), (head.gcs, CALLS["gcs_server"][0])):
        assert [called(address, method, token) for token in (None, WRONG)] == ["UNAUTHENTICATED"] * 2
        assert called(address, method, head.token) != "UNAUTHENTICATED"
    refused = head.submit("--", "pairs", "--help", RAY_AUTH_TOKEN=WRONG)
    assert refused.returncode == 2 and f"the head at {head.address} refuses this user's token" in refused.stderr


def found_in(head: Head, bucket: str, canary: str) -> set[str]:
    """Where a text is: paths of the API, the files of the session, keys of the bucket."""
    paths = [*API, *(f"/api/jobs/{job['submission_id']}/logs" for job in json.loads(head.ask("/api/jobs/", head.token)[1]))]
    found = {path for path in paths if canary in head.ask(path, head.token)[1]}
    files = {}
    for path in (Path(folder, name) for folder, _, names in os.walk(head.folder) for name in names):
        with suppress(FileNotFoundError):  # the head is at work
            if path.is_file() and not path.is_symlink():
                files[path.relative_to(head.folder)] = path.read_bytes()
    assert len(files) > 20
    found |= {path.name for path, text in files.items() if canary.encode() in text}
    store = open_store(f"s3://{bucket}")
    return found | {key for key in store.list() if canary in key or canary.encode() in store.read(key)}


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--env", "AWS_SECRET_ACCESS_KEY={}", "--", "pairs", "--data", "x"], {}),
        (["--env", "PLAIN={}", "--", "pairs", "--data", "x"], {"HF_TOKEN": "{}"}),
        (["--", "pairs", "--data", "x", "--api-key", "{}"], {}),
        (["--", "pipeline", "--videos", "s3://me:{}@bucket/videos"], {}),
        (["--", "pipeline", "--storage=s3://me:{}@bucket/runs"], {}),
        (["--", "pipeline", "--videos", "https://bucket/x.mp4?X-Amz-Signature={}"], {}),
    ],
)
def test_a_secret_that_is_submitted_by_us_is_nowhere(words: list[str], environment: dict[str, str], place: tuple[Head, str]) -> None:
    head, bucket = place
    canary = "c4n4ry0fS0me0ne"
    done = head.submit(*(word.format(canary) for word in words), **{name: value.format(canary) for name, value in environment.items()})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, done.stderr
    assert "looks like a secret" in done.stderr and "nodes find S3 by their role" in done.stderr and canary not in done.stderr
    assert not found_in(head, bucket, canary)


def test_a_secret_that_is_submitted_by_ray_is_told_to_be_revoked(place: tuple[Head, str]) -> None:
    """What Ray keeps of it then is Ray's: this says where, so that docs/submit.md can. Our verb neither repeats it nor goes on."""
    head, bucket = place
    variable, word = "c4n4ry0fAVar1able", "c4n4ry0fAW0rd"
    runtime_env = json.dumps({"env_vars": {"HF_TOKEN": variable}})
    run = ["python", "-m", "jobs.pipeline", "--preset", "smoke", "--storage", f"s3://{bucket}/runs", "--videos"]
    for name, line in {"variable": [*run, "s3://x/y"], "word": [*run, f"s3://me:{word}@x/y"]}.items():
        words = ["--runtime-env-json", runtime_env] if name == "variable" else []
        done = head.job("submit", "--no-wait", "--submission-id", name, "--working-dir", ".", *words, "--", *line)
        assert done.returncode == 0, done.stderr
    for name in ("variable", "word"):
        assert head.wait(name) == "FAILED"
        details = json.loads(head.ask(f"/api/jobs/{name}", head.token)[1])
        last = head.ask(f"/api/jobs/{name}/logs", head.token)[1]
        assert details["driver_exit_code"] == 2 and "looks like a secret" in last and "revoke it, and submit without it" in last
    assert variable not in head.ask("/api/jobs/variable/logs", head.token)[1]
    kept = {name: found_in(head, bucket, canary) for name, canary in (("variable", variable), ("word", word))}
    print("kept by Ray:", kept)
    assert all("/api/jobs/" in places for places in kept.values()), kept
    assert not any(place.startswith("runs/") for places in kept.values() for place in places), kept


def test_every_verb_shows_its_help_as_a_job(place: tuple[Head, str]) -> None:
    """In one job: the verbs are loaded once, and each is run as `python -m` does in a process of its own."""
    head, _ = place
    code = f"""
import os, runpy, sys, importlib
for verb in {verbs()!r}:
    importlib.import_module("jobs." + verb)
for verb in {verbs()!r}:
    sys.stdout.flush()
    if not os.fork():
        del sys.modules["jobs." + verb]
        sys.argv = [verb, "--help"]
        try:
            runpy.run_module("jobs." + verb, run_name="__main__", alter_sys=True)
        finally:
            sys.stdout.flush()
            os._exit(0)
    print(verb, "ended with", os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert len(verbs()) > 15
    job = ["--submission-id", "help", "--working-dir", ".", "--", "python", "-c", code]
    done = head.job("submit", *job)
    assert done.returncode == 0, done.stdout + done.stderr
    for verb in verbs():
        assert re.search(rf"usage: python -m jobs\.{verb} \[-h\]", done.stdout), verb
        assert f"{verb} ended with 0" in done.stdout


def test_a_submission_that_cannot_fit_is_refused(place: tuple[Head, str], clips: Path) -> None:
    """With the reason, and the status of the job, where it would wait for ever."""
    head, bucket = place
    for path in clips.iterdir():
        open_store(f"s3://{bucket}/videos").write(path.name, path.read_bytes())
    there = ["--preset", "smoke", "--videos", f"s3://{bucket}/videos", "--storage", f"s3://{bucket}/runs", "--name", "large"]
    done = head.submit("--submission-id", "large", "--", "pipeline", *there, "--workers", "2", "--gpu")
    details = json.loads(head.ask("/api/jobs/large", head.token)[1])
    print(f"refused {(details['end_time'] - details['start_time']) / 1000:.1f} s after its begin")
    assert done.returncode == 2 and done.stdout.splitlines()[-1] == "large failed with status 2; its last lines are above"
    assert (
        "error: 2 workers take a CPU and a GPU each and their decoding 0.5 CPU each, 3 CPUs in all; the cluster has 4 CPUs and 0 GPUs"
        in done.stdout
    )
    assert not open_store(f"s3://{bucket}/runs/large").exists("run.json")
    assert not found_in(head, bucket, os.environ["AWS_SECRET_ACCESS_KEY"]), "the key of the storage, which the nodes were started with"
