"""A run's folder: its config, its data, and the commits of its stages."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from mvgan.config import ANOTHER_NAME, STAGES, InputError, Run, stage_of
from mvgan.settings import differences, from_dict, to_dict
from mvgan.storage.commit import Commit, Commits
from mvgan.storage.holder import held
from mvgan.storage.uri import Store, open_store, seen_from
from mvgan.validation import check_pairs, validate


FORMAT_VERSION = 1
RECORD = "run.json"
PACKAGES = ("torch", "ray", "numpy", "scipy", "pyarrow", "av")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """The folder `<storage>/<name>` of a run with the resolved config `run` on the shards at `data`."""

    store: Store
    run: Run
    data: str
    stage_1_of: str | None = None
    """Another run, whose stage 1 this one takes: trials of a sweep share pair generators. A URI, or a path as seen from this folder
    (`../../pairs/0`), which stays right when both are moved together."""

    @property
    def uri(self) -> str:
        """Where the folder is."""
        return self.store.uri

    def commits(self, stage: str) -> Commits:
        """The commits of `stage`: pairs, codes or video."""
        return Commits(self.home(stage), stage)

    def home(self, stage: str) -> Store:
        """Where commits, metrics and samples of `stage` are: here, or for stage 1 maybe in the run that it is taken from."""
        return open_store(seen_from(self.uri, self.stage_1_of)) if stage == "pairs" and self.stage_1_of else self.store

    def complete(self, stage: str) -> Commit | None:
        """The newest commit of `stage`, if it verifies and ends the stage."""
        commit = self.commits(stage).newest()
        return commit if commit is not None and commit.meta["complete"] else None

    def begun(self, stage: str) -> bool:
        """Whether `stage` holds work of its settings: of a trained one any claim counts, as its driver may be at work.

        Stage codes commits once, at its end. A claim alone says that it was tried, and maybe that other settings are due.
        """
        return self.complete(stage) is not None if stage == "codes" else self.commits(stage).begun()

    def require(self, stage: str) -> Commit:
        """The commit that ends `stage`. Raises InputError when the stage has not ended, or the run has no such stage."""
        if stage in ("codes", "video"):
            check_pairs(self.run)
        commit = self.complete(stage)
        if commit is None and self.home(stage) != self.store:
            raise InputError(
                f"run {self.uri} takes stage {stage} of {self.home(stage).uri}, which has not finished it, or is elsewhere now; "
                "keep both where the sweep has them"
            )
        if commit is None:
            raise InputError(f"run {self.uri} has not finished stage {stage}; run `python -m jobs.{stage}` on it first")
        return commit


def read_run(uri: str) -> RunFolder:
    """The run at `uri`. Raises InputError when there is none, or its record is damaged or of another version."""
    store = open_store(uri)
    try:
        record = json.loads(store.read(RECORD))
    except FileNotFoundError:
        raise InputError(f"{uri} holds no run ({RECORD} is missing); expected the folder that a training command printed") from None
    except ValueError as error:
        raise InputError(f"{uri}/{RECORD} is damaged ({error}); restore it, or start {ANOTHER_NAME}") from None
    found = record.get("format_version") if isinstance(record, dict) else None
    if found != FORMAT_VERSION:
        raise InputError(f"{uri}/{RECORD} has format {found}; this mvgan reads format {FORMAT_VERSION}: start {ANOTHER_NAME}")
    if not isinstance(record.get("config"), dict) or not isinstance(record.get("data"), str):
        raise InputError(f"{uri}/{RECORD} is damaged (config or data is missing); restore it, or start {ANOTHER_NAME}")
    try:
        return RunFolder(store, validate(from_dict(Run(), record["config"])), record["data"], record.get("stage_1_of"))
    except InputError as error:
        raise InputError(f"{uri}/{RECORD} is damaged or of another version ({error}); restore it, or start {ANOTHER_NAME}") from None


def open_run(uri: str, run: Run, data: str, stage_1_of: str | None = None) -> RunFolder:
    """Create the run at `uri`, whose stage 1 may be that of another one, or open it again with the same config.

    A setting may change as long as no stage that it shapes has begun. Raises InputError, naming the differences, when one has.
    Where stage 1 is may change too: a folder was moved. Without `stage_1_of` it is where it was.
    """
    store = open_store(uri)
    if not store.exists(RECORD) and store.create(
        RECORD, _record(run, data, stage_1_of)
    ):  # of two drivers at once, the second is asked as below
        return RunFolder(store, run, data, stage_1_of)
    changed = check_run(uri, run, data)
    before = read_run(uri).stage_1_of
    folder = RunFolder(store, run, data, stage_1_of or before)
    if changed:
        if folder.commits("codes").begun() and not folder.complete("codes"):
            # A driver of the old settings that was thought dead can then commit no codes; if it has done so meanwhile, we stop.
            folder.commits("codes").claim({"changed": sorted(changed)})
            check_run(uri, run, data)
        # Also a default may have changed since: one who gave no such flag learns that it is another one.
        logger.info("run %s goes on with other settings of stages that have not begun: %s", uri, _said(changed))
    if changed or folder.stage_1_of != before:
        store.write(RECORD, _record(run, data, folder.stage_1_of))
    return folder


@contextmanager
def drive(uri: str, run: Run, data: str, what: str) -> Iterator[RunFolder]:
    """The run at `uri`, opened as by `open_run`, and held for the verb `what` against a second driver."""
    check_run(uri, run, data)  # a run that is refused stays as it is
    with held(open_store(uri), what):
        yield open_run(uri, run, data)


def check_run(uri: str, run: Run, data: str) -> dict[str, tuple[Any, Any]]:
    """What `open_run` would change of an existing run, dotted path: (old, new); writes nothing. Raises InputError as it does."""
    if not open_store(uri).exists(RECORD):
        return {}
    old = read_run(uri)
    changed = differences(to_dict(old.run), to_dict(run))
    if old.data != data:
        changed["data"] = (old.data, data)
    if changed:
        _refuse_changes(old, changed)
    return changed


def _refuse_changes(old: RunFolder, changed: dict[str, tuple[Any, Any]]) -> None:
    shaped = {path: "pairs" if path == "data" else stage_of(path) for path in changed}
    first = min(STAGES.index(stage) for stage in shaped.values())
    begun = [stage for stage in STAGES[max(first, 1) :] if old.begun(stage)]
    if begun:
        raise InputError(
            f"run {old.uri} exists with another config and has begun stage {begun[0]}: {_said(changed)}. "
            f"Give the old settings, or start {ANOTHER_NAME}"
        )


def _said(changed: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{path} was {old!r}, now {new!r}" for path, (old, new) in changed.items())


def _record(run: Run, data: str, stage_1_of: str | None) -> bytes:
    versions = {package: version(package) for package in PACKAGES} | {"python": sys.version.split()[0]}
    record = {"format_version": FORMAT_VERSION, "config": to_dict(run), "data": data, "versions": versions}
    return json.dumps(record | ({"stage_1_of": stage_1_of} if stage_1_of else {}), indent=1).encode()
