"""What looks like a secret, and what only resembles one: forms as their issuers document them."""

import dataclasses
import importlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from jobs._secrets import JOB, is_secret_name, refuse_in_command, refuse_in_job, secret_in
from jobs.submit import verbs
from mvgan.config import InputError


CANARY = "c4n4ry" * 4

NAMES = """
AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN WANDB_API_KEY HF_TOKEN HUGGING_FACE_HUB_TOKEN MLFLOW_TRACKING_PASSWORD
MLFLOW_TRACKING_TOKEN RAY_AUTH_TOKEN AZURE_STORAGE_KEY DB_PASSWORD MY_SECRET clientSecret api-key apikey GITHUB_TOKEN
PGPASSWORD MYSQL_PWD DB_PASSWORDS SECRETKEY ACCESSTOKEN AUTHORIZATION
""".split()

PLAIN_NAMES = """
AWS_ENDPOINT_URL AWS_REGION AWS_PROFILE AWS_SHARED_CREDENTIALS_FILE AWS_WEB_IDENTITY_TOKEN_FILE RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH
TOKENIZERS_PARALLELISM MAX_TOKENS MLFLOW_TRACKING_URI MLFLOW_TRACKING_USERNAME OMP_NUM_THREADS NCCL_DEBUG KEYBOARD AWS_KMS_KEY_ID
GOOGLE_APPLICATION_CREDENTIALS SSH_PUBLIC_KEY PYTHONPATH PWD OLDPWD
""".split()

VALUES = [
    "AKIAIOSFODNN7EXAMPLE",  # AWS's own examples
    "ASIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1"[:40],
    "https://bucket.s3.amazonaws.com/x?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835",
    "https://account.blob.core.windows.net/c/x?sv=2022&sig=Z%2FRHIX5Xcg0Mq2rqI3OlWTjEg2tYkboXr1P9ZUXDtkk%3D",
    "s3://user:hunter22@bucket/videos",
    "https://:hunter22@host/x",
    "postgresql://mlflow:hunter22@db/runs",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1",
    "hf_" + "a1B2" * 9,
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2" * 9,
    "xoxb-123456789012-abcdefghijkl",
    "AIza" + "a1B2-" * 7,
    "0123456789abcdef0123456789abcdef01234567",  # Weights & Biases
    "local-0123456789abcdef0123456789abcdef01234567",
    "sk-" + "a1B2" * 8,
    "https://glpat-abcdef@host/x",
    "Authorization: Bearer c4n4ryc4n4ry",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
]

PLAIN_VALUES = [
    "", "1", "s3://bucket/videos", "s3://bucket/user:name/x@2", "https://host:8080/x", "http://127.0.0.1:8265", "2,3,4", "ucf101",
    "0123456789abcdef" * 4,  # --features-sha256
    "s3://bucket/runs/0123456789abcdef0123456789abcdef01234567",  # the hash of a commit in a path
    "/data/Videos/of/The/Year/2024/And/More/x1"[:40], "disk-benchmark-of-the-new-machines", "forward:3",
    "gcs://_ray_pkg_0123456789abcdef.zip", "runs/Faces2024Interval4/Res128/pairs/abc"[:40].ljust(40, "d"), "sk-timelapse-64px-interval-4-5",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_says_secret(name: str) -> None:
    assert secret_in(name, "x", {}) == "by its name"


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_name_that_says_none(name: str) -> None:
    assert secret_in(name, "/some/place", {}) is None


@pytest.mark.parametrize("value", VALUES)
def test_a_value_of_the_form_of_a_secret(value: str) -> None:
    why = secret_in("X", value, {})
    assert why is not None and why.startswith("it holds ") and value not in why


@pytest.mark.parametrize("value", PLAIN_VALUES)
def test_a_value_that_is_none(value: str) -> None:
    assert secret_in("X", value, {"AWS_SECRET_ACCESS_KEY": CANARY}) is None


def test_a_secret_of_this_process_is_known_wherever_it_stands() -> None:
    assert secret_in("X", f"a{CANARY}b", {"MY_PASSWORD": CANARY}) == "it holds your MY_PASSWORD"
    assert secret_in("X", "a", {"MY_PASSWORD": "a"}) is None, "too short to tell"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--videos", "s3://user:hunter22@bucket/v"], "--videos looks like a secret (it holds a URL with a password), do"),
        (["--storage=s3://user:hunter22@bucket/v"], "--storage looks"),
        (["--api-key", CANARY], "--api-key looks like a secret (by its name), do"),
        (["--api-key=" + CANARY], "--api-key looks"),
        (["AWS_SECRET_ACCESS_KEY=" + CANARY], "--AWS_SECRET_ACCESS_KEY looks"),
        (["--track", "wandb", "AKIAIOSFODNN7EXAMPLE"], "word 3 of the command looks"),
        (["--track", "0123456789abcdef0123456789abcdef01234567"], "--track looks"),
    ],
)
def test_a_word_of_a_command(words: list[str], what: str) -> None:
    with pytest.raises(InputError) as told:
        refuse_in_command(words, {}, "do")
    assert str(told.value).startswith(what) and "hunter22" not in str(told.value) and CANARY not in str(told.value)


def test_words_of_a_usual_command() -> None:
    refuse_in_command(["--name", "0123456789abcdef0123456789abcdef01234567", "--interval", "2", "3", "--no-wait", "--dry-run"], {}, "")


def flags_of(kind: Any) -> Iterator[str]:
    """The names of all flags of a dataclass, in groups too."""
    for field in dataclasses.fields(kind):
        yield field.name
        inner = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
        if dataclasses.is_dataclass(inner):
            yield from flags_of(inner)


@pytest.mark.parametrize("verb", [*verbs(), "submit"])
def test_no_flag_of_ours_is_named_like_a_secret(verb: str) -> None:
    module = importlib.import_module(f"jobs.{verb}")
    kinds = [kind for kind in vars(module).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]
    names = [name for kind in kinds for name in flags_of(kind)]
    assert names and not [name for name in names if is_secret_name(name)]


def job(metadata: Mapping[str, str] = {}, **runtime_env: Any) -> dict[str, str]:
    """The environment of a driver that was submitted with this."""
    return {JOB: json.dumps({"runtime_env": runtime_env, "metadata": metadata})}


PLAIN_JOB = job(
    env_vars={"RAY_JOB_STOP_WAIT_TIME_S": "120"}, working_dir="gcs://_ray_pkg_0123456789abcdef.zip",
    _ray_commit="0123456789abcdef0123456789abcdef01234567",
)  # fmt: skip


def test_a_job_without_secrets_and_no_job() -> None:
    refuse_in_job(["--preset", "tiny"], PLAIN_JOB | {"AWS_SECRET_ACCESS_KEY": CANARY})
    refuse_in_job(["--videos", "s3://user:hunter22@bucket/v"], {"HF_TOKEN": CANARY})


@pytest.mark.parametrize(
    ("environment", "words", "what"),
    [
        (job(env_vars={"HF_TOKEN": CANARY}) | {"HF_TOKEN": CANARY}, [], "the variable HF_TOKEN of the job looks like a secret (by"),
        (job(env_vars={"X": CANARY}) | {"X": CANARY, "MY_PASSWORD": CANARY}, [], "the variable X of the job"),
        (job(pip=["--extra-index-url", "https://me:hunter22@host/simple"]), [], "the variable runtime_env.pip.1 of the job"),
        (job({"password": CANARY}), [], "the variable metadata.password of the job"),
        (PLAIN_JOB, ["--videos", "s3://user:hunter22@bucket/v"], "--videos looks"),
        (PLAIN_JOB | {"AWS_SECRET_ACCESS_KEY": CANARY}, ["--name", CANARY], "--name looks like a secret (it holds your AWS_SECRET_"),
    ],
)
def test_a_job_with_secrets_is_told_to_revoke_them(environment: dict[str, str], words: list[str], what: str) -> None:
    with pytest.raises(InputError) as told:
        refuse_in_job(words, environment)
    said = str(told.value)
    assert said.startswith(what) and "revoke it" in said and CANARY not in said and "hunter22" not in said and "\n" not in said
