"""Flags, config files and user mistakes: one line on standard error, exit status 2, no traceback, nothing written."""

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import tyro
import yaml

from jobs._cli import Place, Settings, main, parse
from mvgan.config import InputError, Network, Resources, Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.synthetic import render_set
from mvgan.presets import PRESETS, PROFILES, preset
from mvgan.settings import from_dict, to_dict
from mvgan.storage.commit import Conflict, Superseded
from mvgan.storage.run import open_run
from mvgan.train.committer import MissedCommits
from mvgan.train.guard import Diverged


ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of a verb like the training ones."""

    data: str = tyro.MISSING
    place: Annotated[Place, tyro.conf.arg(name="")] = field(default_factory=Place)


def flags(*argv: str) -> Flags:
    return parse(Flags, ["--data", "x", *argv], "A verb.")


def outcome(verb: Any, kind: type, *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a verb run here."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["verb", *argv]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(verb, kind, "A verb.")
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        sys.argv = before
    return status, out.getvalue(), err.getvalue()


def refused(verb: Any, kind: type, *argv: str) -> str:
    """The one line of a refusal."""
    status, out, err = outcome(verb, kind, *argv)
    assert (status, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.mark.parametrize("kind", [MissedCommits, Diverged, Superseded, Conflict])
def test_what_ends_a_run_is_one_line(kind: type[Exception]) -> None:
    """Status 1: nothing is wrong with what the user gave."""

    def verb(flags: Flags) -> None:
        raise kind("pairs: 3 commits in a row could not be written")

    status, _, err = outcome(verb, Flags, "--data", "x")
    assert (status, err) == (1, "error: pairs: 3 commits in a row could not be written\n")


def test_defaults_are_the_demo_preset() -> None:
    found = flags()
    assert found.settings == preset("demo") and found.data == "x" and found.place.uri(found.preset) == "runs/demo"
    assert found.resources.workers == 1 and not found.dry_run


@pytest.mark.parametrize("text", ["2,3,4", "4,2,3", "2,3,4,4"])
def test_a_comma_makes_one_mixed_set_of_intervals(text: str) -> None:
    assert flags("--interval", text).settings.interval == (2, 3, 4)


def test_flags_go_over_the_config_file_and_that_over_the_preset(tmp_path: Path) -> None:
    """Reference: the rule of the README: flag, then file, then preset."""
    file = tmp_path / "a.yaml"
    file.write_text("resolution: 64\nseed: 5\npairs:\n  lr: 0.01\ninterval: [2, 3]\n")
    found = flags("--preset", "smoke", f"--config={file}", "--seed", "7", "--num-codes", "3", "--pairs.batch", "8").settings
    assert (found.resolution, found.seed, found.interval, found.num_codes) == (64, 7, (2, 3), 3)
    assert (found.pairs.lr, found.pairs.batch) == (0.01, 8)
    assert found.network == preset("smoke").network and found.pairs.total_kimg == preset("smoke").pairs.total_kimg


def test_flags_go_over_the_profile() -> None:
    spot = flags("--data", "d", "--profile", "spot", "--workers", "4").resources
    assert (spot.workers, spot.min_workers, spot.gpu, spot.start_s) == (4, 1, True, 3600)
    assert flags("--data", "d").resources == PROFILES["laptop"] == Resources()
    with pytest.raises(InputError, match=r"unknown profile 'lap'; choose one of laptop, "):
        flags("--data", "d", "--profile", "lap")


@pytest.mark.parametrize("name", PRESETS)
def test_print_config_is_read_back(name: str, tmp_path: Path) -> None:
    """What --print-config prints is YAML that --config takes and that gives the same settings."""
    status, out, err = outcome(pytest.fail, Flags, "--data", "x", "--preset", name, "--interval", "2,3", "--print-config")
    assert (status, err) == (0, "")
    assert from_dict(Run(), yaml.safe_load(out)).interval == (2, 3)
    (tmp_path / "a.yaml").write_text(out)
    assert flags("--config", str(tmp_path / "a.yaml")).settings == flags("--preset", name, "--interval", "2,3").settings


@pytest.mark.parametrize("verb", ["ingest", "pairs", "codes", "video", "pipeline"])
def test_print_config_needs_no_place(verb: str) -> None:
    """It shows settings alone, so what only a run needs may be left away; a wrong flag is told still."""
    kind = importlib.import_module(f"jobs.{verb}").Flags
    status, out, err = outcome(pytest.fail, kind, "--preset", "smoke", "--seed", "3", "--print-config")
    assert (status, err) == (0, "")
    assert from_dict(Run(), yaml.safe_load(out)) == from_dict(preset("smoke"), {"seed": 3})
    assert "Unrecognized options: --sed, 3" in refused(pytest.fail, kind, "--sed", "3", "--print-config")


def test_the_verb_gets_the_flags() -> None:
    got: list[Flags] = []
    assert outcome(got.append, Flags, "--data", "here", "--dry-run")[0] == 0
    assert got[0].data == "here" and got[0].dry_run


def test_help_names_the_flags_and_exits_with_0() -> None:
    status, out, _ = outcome(pytest.fail, Flags, "--help")
    assert status == 0
    for flag in ("preset", "interval", "num-codes", "latents", "stride", "workers", "seed", "storage", "name", "pairs.lr"):
        assert f"--{flag}" in out, flag


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--data"),
        (["--data", "x", "--nonsense", "3"], "--nonsense"),
        (["--data", "x", "--pairs.lr", "fast"], "--pairs.lr.*'fast'"),
        (["--data", "x", "--seed"], "--seed"),
        (["--data", "x", "--interval", "2,x"], "--interval.*'x'"),
        (["--data", "x", "--interval", ""], "--interval"),
        (["--data", "x", "--interval", "0"], "interval 0 is below 1"),
        (["--data", "x", "--resolution", "100"], "resolution 100 is no power of two"),
        (["--data", "x", "--pairs.batch", "30"], "does not divide into logical shards"),
        (["--data", "x", "--num-codes", "1000"], "num_codes 1000 each way is more than the factorization can give"),
        (["--data", "x", "--workers", "0"], "workers is 0"),
        (["--data", "x", "--preset", "big"], "unknown preset 'big'"),
        (["--data", "x", "--preset"], "--preset"),
        (["--data", "x", "--config", "--dry-run"], "--config"),
        (["--data", "x", "--config", "nowhere.yaml"], "cannot read --config nowhere.yaml"),
        (["--data", "x", "--network.precision", "fp8"], "--network.precision"),
        (["--data", ""], "--data is empty"),
        (["--data", "x", "--storage", ""], "--storage is empty"),
        (["--data", "x", "--name", ""], "--name is empty"),
        (["--data", "x", "--preset", ""], "--preset is empty"),
        (["--data", "x", "--config", ""], "--config is empty"),
    ],
)
def test_mistakes_in_flags(argv: list[str], message: str) -> None:
    assert re.search(message, refused(pytest.fail, Flags, *argv))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resolutoin: 3\n", "unknown setting 'resolutoin'; known here: resolution"),
        ("pairs:\n  lr: fast\n", "'pairs.lr' is of kind float; got 'fast'"),
        ("pairs: [1\n", "is no valid YAML"),
        ("- 1\n", "holds list; expected settings"),
        ("", "holds NoneType; expected settings"),
        ("\x00", "is no valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "is no valid YAML"),
        ("resolution: 100\n", "resolution 100 is no power of two"),
    ],
)
def test_mistakes_in_config_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert message in refused(pytest.fail, Flags, "--data", "x", "--config", str(tmp_path / "a.yaml"))


def test_a_verbs_own_errors_become_one_line() -> None:
    def verb(found: Flags) -> None:
        raise InputError("what was wrong; what to do")

    assert refused(verb, Flags, "--data", "x") == "error: what was wrong; what to do\n"


def test_a_bug_is_no_user_mistake() -> None:
    """A traceback is due then, not a line that hides it."""

    def verb(found: Flags) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        outcome(verb, Flags, "--data", "x")


# The verbs themselves, as far as they go without a cluster.

SMALL = ["--resolution", "16", "--interval", "2", "--stride", "1", "--video.num-frames", "4", "--num-codes", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of 2 videos of 8 frames."""
    folder = tmp_path_factory.mktemp("data")
    videos, out = folder / "videos", folder / "shards"
    render_set(str(videos), num_videos=2, num_frames=8, size=16)
    plan = plan_ingest(str(videos), str(out), from_dict(Run(), {"resolution": 16}))
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    return out


def run_verb(name: str, *argv: str) -> str:
    module = importlib.import_module(f"jobs.{name}")
    return refused(module.run, module.Flags, *argv)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pairs", "--data", "nowhere"], "nowhere holds no finished shard set"),
        (["pairs", "--data", "gs://bucket/x"], "scheme 'gs'"),
        (["pairs", "--data", "DATA", "--resolution", "32"], "holds frames of 16 px, the run is of 32 px"),
        (["pairs", "--data", "DATA", *SMALL, "--interval", "8"], "9 frames are needed and the longest video has 8"),
        (["pipeline", "--data", "DATA", *SMALL, "--stride", "3"], "no video is long enough"),
        (["pipeline", "--videos", "nowhere"], "nowhere does not exist or holds no file"),
        (["pipeline", "--videos", "EMPTY"], "holds 1 files but no video"),
        (["pipeline", "--videos", "EMPTY", "--data", "DATA"], "--videos and --data are both given"),
        (["ingest", "--videos", "nowhere", "--out", "out", "--dry-run"], "nowhere does not exist or holds no file"),
        (["codes", "--run", "nowhere"], "nowhere holds no run"),
        (["video", "--run", "nowhere"], "nowhere holds no run"),
        (["video", "--run", "nowhere", "--preset", "demo"], "--run names a run with a config of its own"),
        (["generate", "--run", "nowhere"], "nowhere"),
        (["report", "--run", "nowhere"], "nowhere holds no run"),
        (["report", "--run", ""], "--run is empty"),
        (["explore", "--run", "nowhere"], "nowhere holds no run and no export/ of one; give the folder"),
        (["explore", "--run", "nowhere", "--seeds", "1,1"], "--seeds '1,1' names a seed twice"),
        (["codes", "--run", ""], "--run is empty"),
        (["ingest", "--videos", "EMPTY", "--out", "out", "--list", ""], "--list is empty"),
        (["ingest", "--videos", "VIDEOS", "--out", "out", "--list", "empty/"], "the list file empty/ is a folder"),
        (["pipeline", "--videos", ""], "--videos is empty"),
        (["pipeline", "--videos", "VIDEOS", "--storage", "/proc/x"], "/proc/x: No such file or directory"),
        (["pipeline", "--videos", "VIDEOS", "--name", "a" * 300], "File name too long"),
    ],
)  # fmt: skip
def test_mistakes_in_places(argv: list[str], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the issue lists under wrong input, verb by verb; nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.init", pytest.fail)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no video")
    before = files(tmp_path) | files(data)
    words = {"DATA": str(data), "EMPTY": "empty", "VIDEOS": str(data.with_name("videos"))}
    assert message in run_verb(*[words.get(word, word) for word in argv])
    assert files(tmp_path) | files(data) == before


def test_a_damaged_shard(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with what to do."""
    monkeypatch.chdir(tmp_path)
    for path, content in files(data).items():
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_bytes(content)
    (shard,) = (tmp_path / "data").rglob("*.parquet")
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    message = run_verb("pairs", "--data", "data", *SMALL)
    assert shard.name in message and "is damaged" in message and "run ingest again" in message


def test_another_config_under_the_same_name(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose stage 1 has a commit is refused with the difference, and stays as it is."""
    monkeypatch.chdir(tmp_path)
    settings = parse(Flags, ["--data", str(data), *SMALL], "A verb.").settings
    folder = open_run("runs/demo", settings, str(data))
    commits = folder.commits("pairs")
    commits.write(16, commits.claim({}), {"state.pt": b"x"}, {"complete": False})
    before = files(tmp_path)
    message = run_verb("pairs", "--data", str(data), *SMALL, "--pairs.lr", "0.5")
    assert f"exists with another config and has begun stage pairs: pairs.lr was {settings.pairs.lr}, now 0.5" in message
    assert "under another --name" in message
    assert files(tmp_path) == before


def test_run_takes_the_settings_of_the_run(data: Path, tmp_path: Path) -> None:
    """With --run the run's own config is what flags change."""
    folder = open_run(str(tmp_path / "run"), from_dict(Run(), {"seed": 11, "network": {"w_dim": 64}}), str(data))
    module = importlib.import_module("jobs.video")
    found = parse(module.Flags, ["--run", folder.uri, "--video.lr", "0.5"], "A verb.").settings
    assert (found.seed, found.network, found.video.lr) == (11, Network(w_dim=64), 0.5)
    assert to_dict(found)["video"] | {"lr": 1e-4} == to_dict(Run())["video"]


def run_process(*argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", *argv], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_dry_run_of_the_paper(tmp_path: Path) -> None:
    """Reference: the parameter counts of the paper's networks; nothing is needed, started or written."""
    done = run_process("jobs.pipeline", "--preset", "ucf101", "--dry-run", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("25,000,000 pairs of 256 px", "30,043,191", "28,864,513", "22,136,706", "4,217,886", "30 codes each way"):
        assert part in done.stdout, part
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verb", "argv", "message"),
    [
        ("generate", [], "--run is missing"),
        ("pairs", ["--seed", "3"], "--data is missing"),
        ("codes", [], "--run is missing"),
        ("explore", [], "--run is missing"),
        ("ingest", [], "--videos and --out are missing"),
        ("ingest", ["--videos", "x"], "--out is missing"),
        ("report", ["runs/demo"], "--run is missing; unknown: runs/demo"),
        ("report", ["--rn", "runs/demo"], "--run is missing; unknown: --rn runs/demo"),
        ("features", [], "{check} and FILE are missing"),
        ("features", ["check"], "FILE is missing"),
        ("bench", [], "{data,windows,step,video-step,jacobian,rpca,frechet} is missing"),
        ("report", ["--run", "x", "--fast"], "Unrecognized options: --fast"),
        ("generate", ["--run"], "Missing value for argument '--run'. Expected 1 values"),
    ],
)
def test_what_is_missing_or_unknown_is_told_in_one_line(verb: str, argv: list[str], message: str) -> None:
    """The whole line: neither the parser's box nor the path of a file is in it."""
    module = importlib.import_module(f"jobs.{verb}")
    assert refused(pytest.fail, module.Flags, *argv) == f"error: {message}; see --help\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_line_is_the_same_on_every_terminal(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser draws its box by the terminal: in its characters and colours, as wide as it is (here a real pseudo-terminal)."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    terminal, end = os.openpty()
    done = subprocess.run([sys.executable, "-m", "jobs.report", "--fast"], cwd=tmp_path, stdout=end, stderr=subprocess.PIPE, check=False)
    os.close(end)
    os.close(terminal)
    assert (done.returncode, done.stderr) == (2, b"error: --run is missing; unknown: --fast; see --help\n")


def test_help_says_how_the_verb_is_called(tmp_path: Path) -> None:
    done = run_process("jobs.report", "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m jobs.report [-h] ")


@pytest.mark.parametrize("flag", ["--help", "--print-config"])
def test_a_reader_that_leaves_is_no_error(flag: str, tmp_path: Path) -> None:
    """As `| head -1` does; the status is that of a program that SIGPIPE ends."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs.pairs", "--data", "x", flag]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 141)
    process.stderr.close()


def test_a_closed_output_is_no_error(tmp_path: Path) -> None:
    """As `>&-` does: Python then has no standard output at all."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs.report", "--run", "nowhere"]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_mistake_as_the_shell_sees_it(tmp_path: Path) -> None:
    done = run_process("jobs.pairs", "--data", "nowhere", folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
