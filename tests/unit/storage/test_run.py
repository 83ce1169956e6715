"""Which settings of an existing run may change: those of stages that hold no work of their settings yet."""

import contextlib
import dataclasses
import shutil
from pathlib import Path

import pytest

import jobs.codes
from jobs._cli import main
from mvgan.config import InputError
from mvgan.presets import smoke
from mvgan.storage.commit import Superseded
from mvgan.storage.run import RunFolder, open_run, read_run


FEWER = dataclasses.replace(smoke(), num_codes=2)


@pytest.fixture
def paired(tmp_path: Path) -> RunFolder:
    """A run whose stage 1 is complete and whose codes were claimed by a driver that found none."""
    folder = open_run(str(tmp_path / "run"), smoke(), "data")
    pairs = folder.commits("pairs")
    pairs.write(8, pairs.claim({}), {}, {"complete": True})
    folder.commits("codes").claim({})
    return folder


def test_codes_that_were_only_claimed_leave_their_settings_free(paired: RunFolder) -> None:
    assert open_run(paired.uri, FEWER, "data").run.num_codes == 2
    assert read_run(paired.uri).run == FEWER


def test_a_default_of_before_is_told_with_its_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run of an older version, begun again without the flag after a default changed: a line names both values.

    Once stage 2 has found codes by the older one, the run is refused with the same words.
    """
    older = dataclasses.replace(smoke(), codes=dataclasses.replace(smoke().codes, epsilon=0.01))
    folder = open_run(str(tmp_path / "run"), older, "data")
    with caplog.at_level("INFO"):
        open_run(folder.uri, smoke(), "data")
    assert caplog.messages == [
        f"run {folder.uri} goes on with other settings of stages that have not begun: codes.epsilon was 0.01, now 0.001"
    ]
    codes = folder.commits("codes")
    codes.write(4, codes.claim({}), {}, {"complete": True})
    with pytest.raises(InputError, match=r"has begun stage codes: codes\.epsilon was 0\.001, now 0\.01\. Give the old settings"):
        open_run(folder.uri, older, "data")


def test_a_driver_of_the_old_settings_commits_no_codes_any_more(paired: RunFolder) -> None:
    """One that was thought dead: its claim is superseded with the change of settings, before anyone looks for codes."""
    old = paired.commits("codes").claim({})
    open_run(paired.uri, FEWER, "data")
    with pytest.raises(Superseded):
        paired.commits("codes").write(4, old, {}, {"complete": True})
    assert read_run(paired.uri).complete("codes") is None


def test_a_driver_that_commits_codes_meanwhile_is_not_overruled(paired: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of the old settings that are committed after our look and before our claim keep their settings."""
    codes, looks = paired.commits("codes"), []
    epoch, complete = codes.claim({}), RunFolder.complete

    def slow(folder: RunFolder, stage: str) -> object:
        found = complete(folder, stage)
        looks.append(stage)
        if looks == ["codes", "codes"]:
            codes.write(4, epoch, {}, {"complete": True})
        return found

    monkeypatch.setattr(RunFolder, "complete", slow)
    with pytest.raises(InputError, match="has begun stage codes: num_codes was 4, now 2"):
        open_run(paired.uri, FEWER, "data")
    assert read_run(paired.uri).run == smoke()


@pytest.mark.parametrize("stage", ["codes", "video"])
def test_a_stage_with_work_keeps_its_settings(stage: str, paired: RunFolder) -> None:
    """A claim is enough for a trained stage, whose driver commits as it goes; codes are committed once."""
    epoch = paired.commits(stage).claim({})
    if stage == "codes":
        paired.commits(stage).write(4, epoch, {}, {"complete": True})
    with pytest.raises(InputError, match=f"has begun stage {stage}: num_codes was 4, now 2") as raised:
        open_run(paired.uri, FEWER, "data")
    assert str(raised.value).endswith("Give the old settings, or start under another --name of jobs.pipeline or jobs.pairs")


def test_the_advice_of_stage_2_can_be_followed(tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factorization that gives too few codes says what to lower; the verb then goes on from stage 1 with that."""
    shutil.copytree(tiny_run.uri, tmp_path / "run", ignore=shutil.ignore_patterns("codes*", "video*", "latent*"))
    given = []

    def find(folder: RunFolder, resources: object) -> None:
        folder.commits("codes").claim({})
        if folder.run.num_codes > 1:
            raise InputError("some of the 2 codes are one vector; lower --num-codes, or raise --codes.epsilon or --latents")
        given.append(folder.run.num_codes)

    monkeypatch.setattr("jobs.codes.session", contextlib.nullcontext)
    monkeypatch.setattr("jobs.codes.find_codes", find)
    monkeypatch.setattr("sys.argv", ["codes", "--run", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        main(jobs.codes.run, jobs.codes.Flags, "")
    monkeypatch.setattr("sys.argv", ["codes", "--run", str(tmp_path / "run"), "--num-codes", "1"])
    main(jobs.codes.run, jobs.codes.Flags, "")
    assert given == [1] and read_run(str(tmp_path / "run")).run.num_codes == 1
