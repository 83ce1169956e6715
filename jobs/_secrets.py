"""Credentials must not travel with a job: Ray keeps its variables and its command, and shows them in its API and logs."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mvgan.config import InputError


JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The variable in which Ray tells a driver that was submitted as a job what it was submitted with."""

WORD = r"\w*(SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY|ACCESSKEY|SECRETKEY)S?|\w*TOKEN|KEYS?|AUTHORIZATION|PWD"
"""A word in the names of variables and flags whose values are secret."""

NO_SECRET = {"PUBLIC", "KMS"}
"""Beside one of these a word says nothing."""

PLACES = {"PATH", "FILE", "DIR", "MODE"}
"""At the end of the names of what tells only where a secret is, or of which kind."""

NO_SECRET_NAMES = {"GOOGLE_APPLICATION_CREDENTIALS", "PWD"}
"""Names of paths, unlike what they say."""

SHAPES = {
    "an AWS access key id": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a signed URL": r"(?i)x-(amz|goog)-(signature|credential|security-token)=|[?&](sig|signature)=[\w%+/-]{20}",
    "a URL with a password": r"(?i)(https?://[^/?#\s@]+|[a-z][a-z0-9+.-]*://[^/?#\s@:]*:[^/?#\s@]+)@",  # of https a name alone is a token
    "a header that authorizes": r"(?i)\b(bearer|basic)\s+[\w+/=.-]{8}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a key of a storage account": r"(?i)AccountKey=",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
    "a token of GitHub": r"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})",
    "a token of Slack": r"\bxox[abeoprs]-[\w-]{10,}",
    "a key of Google": r"\bAIza[\w-]{35}",
    "a key of Weights & Biases": r"\bwandb_v1_\w{20,}|^(local-)?[0-9a-f]{40}$",
    "a key of an API": r"\bsk-(?=[\w-]*[0-9])(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{20,}",
    "a JSON web token": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.",
    "an AWS secret access key": r"^(?![a-z_.-]*/)(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9/+]{40}$",
}
"""Secrets that are known by their shape alone."""

LEAST = 8
"""Characters of a secret variable of this process that are looked for elsewhere."""

INSTEAD = "nodes find S3 by their role, and trackers by variables that the nodes were started with (docs/submit.md)"


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable or flag says that its value is secret."""
    words = [word.upper() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    telling = any(re.fullmatch(WORD, word) for word in words)
    return telling and not NO_SECRET & {*words} and words[-1] not in PLACES and name not in NO_SECRET_NAMES


def secret_in(name: str, value: str, own: Mapping[str, str]) -> str | None:
    """What makes `value` of a variable or flag look secret, never the value itself; None if nothing does.

    own: the variables of this process, whose secrets must be nowhere else.
    """
    if not value:
        return None
    if is_secret_name(name):
        return "by its name"
    for variable, secret in own.items():
        if is_secret_name(variable) and len(secret) >= LEAST and secret in value:
            return f"it holds your {variable}"
    return next((f"it holds {what}" for what, shape in SHAPES.items() if re.search(shape, value)), None)


def refuse_in_command(words: Sequence[str], own: Mapping[str, str], what_to_do: str) -> None:
    """Raise InputError, ended by `what_to_do`, if a word of a command looks like a secret."""
    flag = ""
    for number, word in enumerate(words, 1):
        match = re.match(r"(?:--)?([A-Za-z][\w.-]*)=(.*)", word, re.DOTALL)
        name, value = match.groups() if match else (flag, word)
        # The name of a run may well be the hash of a git commit, which looks like a key.
        why = None if name == "name" and re.fullmatch(r"[0-9a-f]{40}", value) else secret_in(name, value, own)
        if why is not None and (match or not word.startswith("--")):
            raise InputError(f"{f'--{name}' if name else f'word {number} of the command'} looks like a secret ({why}), {what_to_do}")
        flag = word[2:] if word.startswith("--") and not match else ""


def refuse_in_variables(variables: Mapping[str, str], own: Mapping[str, str], what_to_do: str) -> None:
    """Raise InputError, ended by `what_to_do`, if a variable of a job looks like a secret."""
    for name, value in variables.items():
        if (why := secret_in(name, value, own)) is not None:
            raise InputError(f"the variable {name} of the job looks like a secret ({why}), {what_to_do}")


def refuse_in_files(folder: Path, own: Mapping[str, str], what_to_do: str) -> None:
    """Raise InputError, ended by `what_to_do`, if a YAML file of `folder`, which travel with a job, holds what looks like a secret."""
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text(errors="replace")
        try:
            named = dict(_texts("", yaml.safe_load(text)))
        except yaml.YAMLError:
            named = {}
        why = next((why for name, value in named.items() if (why := secret_in(name.rpartition(".")[2], value, own))), None)
        why = why or next((why for word in text.split() if (why := secret_in("", word.strip("'\","), own))), None)
        if why:
            raise InputError(f"{path.name}, which would travel with the job, looks as if it held a secret ({why}), {what_to_do}")


def refuse_in_job(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    """Raise InputError if this process was submitted as a job of Ray with what looks like a secret; does nothing elsewhere.

    words: of the command. It is too late to keep the secret, but not to say so.
    """
    if JOB not in environment:
        return
    told = f"and Ray has kept it, in its API and logs: revoke it, and submit without it; {INSTEAD}"
    job = json.loads(environment[JOB])
    runtime_env = job.get("runtime_env") or {}
    variables = runtime_env.pop("env_vars", None) or {}
    own = {name: value for name, value in environment.items() if name not in variables}
    refuse_in_variables(variables, own, told)
    refuse_in_variables(dict(_texts("runtime_env", runtime_env)), own, told)
    refuse_in_variables(dict(_texts("metadata", job.get("metadata") or {})), own, told)
    refuse_in_command(words, own, told)


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """All strings of nested values, by the names under which they are."""
    if isinstance(value, str):
        yield name, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        if not str(key).startswith("_"):  # those are Ray's own: the hash of its commit
            yield from _texts(f"{name}.{key}", part)
