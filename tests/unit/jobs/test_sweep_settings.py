"""What a sweep asks of its settings before work: of its trials alone, and of those only what they still need."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from jobs import sweep as verb
from mvgan.data.shards import ShardSet
from mvgan.settings import to_dict
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import open_store
from mvgan.sweep import Sweep, SweepFolder, distinct_generators
from tests.unit.conftest import tiny_config


def planned(flags: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the verb prints with --dry-run."""
    monkeypatch.setattr(sys, "argv", ["sweep", "--dry-run", *flags.split()])
    verb.cli()
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        "--video.select best",  # measures come from the sweep
        "--config {config} --num-codes 2 4",  # and what none of its trials has need not be possible
        "--config {config} --interval 2 3 --num-codes 2 4",
    ],
)
def test_settings_that_no_trial_has_are_not_asked(
    flags: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("num_codes: 4000\n", encoding="utf-8")
    said = planned(f"--preset smoke --storage {tmp_path} {flags.format(config=tmp_path / 'config.yaml')}", monkeypatch, capsys)
    assert " trials, to " in said


def test_data_need_not_serve_an_interval_that_no_trial_has(
    tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The videos have 24 frames."""
    assert int(ShardSet.open(tiny_run.data).lengths.max()) == 24
    flags = f"{configured(tmp_path, interval=(60,))} --storage {tmp_path}/s --data {tiny_run.data}"
    assert "sweep: 2 pair generators and 2 trials" in planned(f"{flags} --interval 2 3", monkeypatch, capsys)
    monkeypatch.setattr(sys, "argv", ["sweep", "--dry-run", *flags.split()])
    assert "61" in stopped(capsys)


def test_a_start_is_asked_of_generators_that_have_not_begun(
    tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pairs = dataclasses.replace(tiny_config().pairs, init_from=f"{tmp_path}/gone")
    flags = f"{configured(tmp_path, pairs=pairs)} --storage {tmp_path} --name s --data {tiny_run.data} --interval 2 3"
    base = verb.measured(dataclasses.replace(tiny_config(), pairs=pairs))
    folder = SweepFolder(open_store(f"{tmp_path}/s"), Sweep(base, {"interval": ((2,), (3,))}, tiny_run.data))
    first, second = distinct_generators(folder.sweep.trials()).values()
    shutil.copytree(tiny_run.uri, folder.generator_uri(first))
    monkeypatch.setattr(sys, "argv", ["sweep", "--dry-run", *flags.split()])
    assert f"--pairs.init-from {tmp_path}/gone has no weights" in stopped(capsys)
    shutil.copytree(tiny_run.uri, folder.generator_uri(second))
    assert "sweep: 2 pair generators and 2 trials" in planned(flags, monkeypatch, capsys)


def configured(folder: Path, **settings: object) -> str:
    """The flag for a config file with the settings of the tiny run, but for some."""
    values = to_dict(dataclasses.replace(tiny_config(), **settings))  # type: ignore[arg-type]
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return f"--config {folder / 'config.yaml'}"


def stopped(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the verb refuses."""
    with pytest.raises(SystemExit) as stop:
        verb.cli()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    return said.err
