"""What a submission refuses before it asks anyone, and how much it takes along; the rest is in tests/ray/test_submit.py."""

import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env import packaging

from jobs import submit
from tests.short_run import ROOT


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line by which a submission is refused."""
    monkeypatch.setattr(submit, "Head", pytest.fail)
    monkeypatch.setattr("sys.argv", ["submit", *words])
    with pytest.raises(SystemExit) as stop:
        submit.cli()
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1), err
    return err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: nothing to submit; give a verb and its flags after --"),
        (["--"], "error: nothing to submit"),
        (["--", "pipelin"], "error: there is no verb 'pipelin'; give a verb"),
        (["--", "submit"], "error: there is no verb 'submit'"),
        (["--", "_cli"], "error: there is no verb '_cli'"),
        (["--address", "ray://head:10001", "--", "pairs"], "error: --address is 'ray://head:10001'; give the http address"),
        (["--address", "http://me:hunter22@head:8265", "--", "pairs"], "error: --address looks like a secret (it holds a URL with a"),
        (["--stop-wait", "0", "--", "pairs"], "error: --stop-wait is 0"),
        (["--env", "hunter22", "--", "pairs"], "error: --env takes NAME=value"),
        (["--env", "A=1", "A=2", "--", "pairs"], "error: --env has A twice"),
        (["--env", "RAY_JOB_STOP_WAIT_TIME_S=1", "--", "pairs"], "error: --env has RAY_JOB_STOP_WAIT_TIME_S twice, or --stop-wait"),
        (["--env", "A=1", "WANDB_API_KEY=hunter22", "--", "pairs"], "error: the variable WANDB_API_KEY of the job looks like a secret"),
        (["--", "pairs", "--data", "s3://me:hunter22@bucket/x"], "error: --data looks like a secret"),
    ],
)
def test_refused_at_once(words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(monkeypatch, capsys, *words)
    assert said.startswith(line) and "hunter22" not in said


def test_where_there_is_no_code_to_take_along(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path} has no jobs/ and mvgan/ to take along" in refused(monkeypatch, capsys, "--", "pairs", "--data", "x")


@pytest.mark.parametrize(
    "text",
    [
        "pairs:\n  hf_token: hunter22\n",
        "run:\n  init_from: s3://me:hunter22@bucket/x\n",
        "list:\n- name: a\n- https://b/x?X-Amz-Signature=hunter22\n",
        "note: mine is M1hunter22 today\n",  # that of this process
        "no: yaml: [ AKIAHUNTER2212345678 hunter22\n",
    ],
)
def test_a_secret_in_a_file_that_would_travel(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_SECRET", "M1hunter22")
    for name in ("jobs/pairs.py", "mvgan/__init__.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "faces.yaml").write_text(text)
    said = refused(monkeypatch, capsys, "--", "pairs", "--config", "faces.yaml")
    assert said.startswith("error: faces.yaml, which would travel with the job, looks as if it held a secret (") and "hunter22" not in said


def test_where_nobody_answers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["submit", "--address", "http://127.0.0.1:1", "--", "pairs", "--help"])
    with pytest.raises(SystemExit) as stop:
        submit.cli()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no head of Ray answers at http://127.0.0.1:1 (ConnectionError); open the tunnel")


def test_the_upload_is_the_code_and_settings_alone(tmp_path: Path) -> None:
    """By Ray's own packing of a checkout in which work was done. Reference: the files of the code, from the disk."""
    checkout, packed = tmp_path / "checkout", tmp_path / "packed.zip"
    code = [path.relative_to(ROOT) for part in ("jobs", "mvgan") for path in (ROOT / part).rglob("*") if path.is_file()]
    code = [path for path in code if "__pycache__" not in path.parts]
    for path in [Path(".rayignore"), Path(".gitignore"), *code]:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_bytes((ROOT / path).read_bytes())
    (checkout / "mine.yaml").write_text("seed: 1\n")
    for name in ("runs/a/x.bin", ".venv/x.so", ".git/objects/x", "clips/x.mp4", "mine/values", "token", "jobs/__pycache__/x.pyc"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(bytes(3_000_000))
    packaging.create_package(str(checkout), packed, include_gitignore=True)
    with zipfile.ZipFile(packed) as found:
        assert set(found.namelist()) == {*map(str, code), "mine.yaml"}
    assert len(code) > 150 and packed.stat().st_size < 2_000_000
