"""Several values of a setting on the command line."""

import sys
from pathlib import Path

import pytest

from jobs import sweep
from jobs._axes import SETTINGS, split_axes
from mvgan.config import InputError, Run
from mvgan.settings import to_dict


def test_values_have_the_kind_of_their_setting() -> None:
    argv = (
        "--interval 2 3 2,3,4 --num_codes 5 10 --seed 3 --codes.grey true False --codes.rank energy 5 --pairs.lr 1e-3 0.002 "
        "--codes.method random generalized --name x"
    )
    axes, rest = split_axes(argv.split())
    assert axes == {
        "interval": ((2,), (3,), (2, 3, 4)),
        "num_codes": (5, 10),
        "codes.grey": (True, False),
        "codes.rank": ("energy", 5),
        "pairs.lr": (0.001, 0.002),
        "codes.method": ("random", "generalized"),
    }
    assert list(axes) == ["interval", "num_codes", "codes.grey", "codes.rank", "pairs.lr", "codes.method"]
    assert rest == ["--seed", "3", "--name", "x"]
    assert split_axes("--name seed --seed 1 2".split()) == ({"seed": (1, 2)}, ["--name", "seed"])


def test_either_form_of_a_flag_takes_several_values() -> None:
    assert split_axes("--interval=2 3 --name=x --num-codes=4 --stride=2".split()) == (
        {"interval": ((2,), (3,))},
        ["--name=x", "--num-codes=4", "--stride=2"],
    )


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_shown_after_several_values(flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep", "--seed", "1", "2", flag])
    sweep.cli()
    said = capsys.readouterr()
    assert "usage: " in said.out and "--halving" in said.out and said.err == ""


def test_several_places_to_begin_with_are_absolute_as_one_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As trials are trained by workers, whose folder is another."""
    monkeypatch.chdir(tmp_path)
    axes, _ = split_axes("--pairs.init-from a ../b s3://bucket/c None".split())
    assert axes == {"pairs.init_from": (f"{tmp_path}/a", f"{tmp_path.parent}/b", "s3://bucket/c", None)}


def test_all_settings_of_a_run_can_be_named() -> None:
    def paths(config: dict[str, object], where: str = "") -> set[str]:
        return {
            path
            for name, value in config.items()
            for path in (paths(value, f"{where}{name}.") if isinstance(value, dict) else {where + name})
        }

    assert {path for path, _ in SETTINGS.values()} == paths(to_dict(Run()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--intervall 2 3", "--intervall is no setting that can take several values (2 3); near are --interval"),
        ("--code.method random full", "near are --codes.method"),
        ("--zzz 2 3", "--zzz is no setting that can take several values (2 3); see --help"),
        ("--name a b", "--name is no setting that can take several values (a b)"),
        ("--interval 2 x", "--interval x: Error parsing K[,K...]: invalid literal"),
        ("--codes.method random gen", "--codes.method gen: invalid choice 'gen'"),
        ("--num-codes 3 4.5", "--num-codes 4.5: Error parsing INT"),
        ("--codes.grey true 3", "--codes.grey is true or false; got '3'"),
        ("--interval=2 x", "--interval x: Error parsing K[,K...]: invalid literal"),
        ("--name=a b", "--name is no setting that can take several values (a b)"),
        ("--pairs.init-from= b", "--pairs.init-from has an empty value among several"),
        ("--pairs.init-from ftp://a b", "has the scheme 'ftp'"),
        ("--seed 1 2 --seed 3 4", "--seed is given twice; give all its values at once"),
        ("--num-codes 2 --num-codes 4", "--num-codes is given twice; give all its values at once"),
        ("--interval=2 --interval 3", "--interval is given twice; give all its values at once"),
        ("--seed 1 2 --seed 3", "--seed is given twice; give all its values at once"),
        ("--num_codes=3 --num-codes 4 5", "--num_codes is given twice; give all its values at once"),
    ],
)
def test_mistakes_are_told_in_one_line(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as raised:
        split_axes(flags.split())
    assert message in str(raised.value)
    monkeypatch.setattr(sys, "argv", ["sweep", "--preset", "smoke", "--storage", str(tmp_path), *flags.split()])
    with pytest.raises(SystemExit) as stop:
        sweep.cli()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1 and message in said.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--halving 1", "--halving is 1; give 2 or more"),
        ("--at-once -1", "--at-once is -1"),
        ("--stride 1 2", "stride cannot be swept"),
        ("--num-codes 4 4000", "num_codes 4000"),
        ("--workers 3", "3 workers"),
        ("--videos a --data b", "--videos and --data are both given"),
        ("--preset gpu64 --seed 1 2", "preset gpu64 needs videos"),
        ("--videos /nowhere --seed 1 2", "/nowhere"),
        ("--data /nowhere --seed 1 2", "/nowhere"),
    ],
)
def test_a_sweep_that_cannot_be_is_told_before_work(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    preset = [] if "--preset" in flags else ["--preset", "smoke"]
    monkeypatch.setattr(sys, "argv", ["sweep", *preset, "--storage", f"{tmp_path}/s", *flags.split()])
    with pytest.raises(SystemExit) as stop:
        sweep.cli()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert not list(tmp_path.iterdir())


def test_dry_run_counts_generators_and_trials(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = f"--preset smoke --storage {tmp_path} --dry-run --interval 2 3 4 5 2,3,4 --num-codes 2 4"
    monkeypatch.setattr(sys, "argv", ["sweep", *flags.split()])
    sweep.cli()
    said = capsys.readouterr().out
    assert said.count("pair generator of interval") == 5 and said.count("trial of interval") == 10
    assert "pair generator of interval 2,3,4: 3,200 pairs" in said and "trial of interval 5, num_codes 4" in said
    assert said.endswith(f"sweep: 5 pair generators and 10 trials, to {tmp_path}/sweep-smoke/sweep.html\n")
    assert not list(tmp_path.iterdir())
