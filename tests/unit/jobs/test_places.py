"""A job whose results would be lost with its working folder is refused.

Reference: the variable that Ray gives to the command of a job, as seen in one.
"""

import dataclasses
import importlib
import json
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from jobs._axes import split_axes
from jobs._cli import PLACES, main, parse, refuse_lost
from jobs._secrets import JOB
from jobs.submit import verbs
from mvgan.config import InputError, Resources, Run


UPLOAD = {JOB: json.dumps({"runtime_env": {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"}, "metadata": {}})}
NO_UPLOAD = {JOB: json.dumps({"runtime_env": {"env_vars": {"A": "b"}}})}
LOCAL = [
    ("pipeline", ["--preset", "smoke"], "--storage runs"),
    ("pipeline", ["--storage", "s3://b/runs", "--videos", "clips"], "--videos clips"),
    ("pairs", ["--data", "./shards", "--storage", "/runs"], "--data ./shards"),
    ("ingest", ["--videos", "s3://b/v", "--out", "shards"], "--out shards"),
    ("generate", ["--run", "/runs/a"], "--out video.mp4"),
    ("generate", ["--run", "/runs/a", "--out", "s3://b/a.png", "--start", "face.png"], "--start face.png"),
    ("evaluate", ["--run", "runs/a"], "--run runs/a"),
    ("explore", ["--run", "~/runs/a"], "--run ~/runs/a"),
    ("features", ["check", "i3d.pt"], "--file i3d.pt"),
    ("sweep", ["--videos", "s3://b/v"], "--storage runs"),
]


def flags_of(verb: str, words: Sequence[str]) -> Any:
    return parse(importlib.import_module(f"jobs.{verb}").Flags, list(words), "")


@pytest.mark.parametrize(("verb", "words", "said"), LOCAL)
def test_a_place_in_the_upload_is_refused(verb: str, words: list[str], said: str) -> None:
    flags = flags_of(verb, words)
    with pytest.raises(InputError, match=f"^{said} would be in the job's own copy of the code"):
        refuse_lost(flags, UPLOAD)
    refuse_lost(flags, NO_UPLOAD)
    refuse_lost(flags, {})


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("pipeline", ["--videos", "s3://b/v", "--storage", "/runs"]), ("watch", ["--run", "s3://b/runs/a"]), ("bench", ["rpca"]),
        ("bench", ["windows", "--videos", "/v"]), ("doctor", []), ("scale", ["--videos.num-videos", "7"]),
    ],
)  # fmt: skip
def test_others_are_taken(verb: str, words: list[str]) -> None:
    refuse_lost(flags_of(verb, words), UPLOAD)


def test_the_verb_ends_with_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    watch = importlib.import_module("jobs.watch")
    monkeypatch.setattr("sys.argv", ["watch", "--run", "runs/a"])
    for name, value in UPLOAD.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main(watch.run, watch.Flags, "")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "--run runs/a would be in the job's own copy" in said


NO_PLACES = """
code commit config device features_sha256 grid motion_seeds name preset profile protocol seeds
""".split()
"""Flags with text that is no place; a YAML for --config is taken along."""


def texts(flags: type[Any]) -> Iterator[str]:
    """Names of the flags that take any text, without settings and resources."""
    for name, hint in typing.get_type_hints(flags).items():
        if dataclasses.is_dataclass(hint) and hint not in (Run, Resources):
            yield from texts(hint)
        elif str in (hint, *typing.get_args(hint)):
            yield name


def test_every_flag_with_text_is_a_place_or_known_to_be_none() -> None:
    found = {name for verb in verbs() for name in texts(importlib.import_module(f"jobs.{verb}").Flags)}
    assert found == {*PLACES, *NO_PLACES}


def test_weights_to_begin_with_are_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as one of several values of a sweep."""
    words = ["--data", "s3://b/d", "--storage", "s3://b/r", "--pairs.init-from", "runs/first"]
    assert flags_of("pairs", words).settings.pairs.init_from.endswith("/runs/first")
    monkeypatch.setenv(JOB, UPLOAD[JOB])
    said = "^--pairs.init-from runs/first would be in the job's own copy"
    with pytest.raises(InputError, match=said):
        flags_of("pairs", words)
    with pytest.raises(InputError, match=said):
        split_axes([*words[:4], "--pairs.init-from", "s3://b/other", "runs/first"])
    assert flags_of("pairs", [*words[:5], "s3://b/first"]).settings.pairs.init_from == "s3://b/first"
