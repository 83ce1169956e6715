"""The networks that are evaluated: those that a run has exported, or those of its commits."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mvgan.config import InputError, Run
from mvgan.nets.generator import Generator
from mvgan.sample import Generator as VideoGenerator
from mvgan.storage.commit import Commit, Damaged
from mvgan.storage.run import RunFolder, read_run
from mvgan.train.export import WEIGHTS, committed_weights, exported_files, networks_sha256
from mvgan.train.session import load_generator


KEPT = "evaluation/weights"
"""Where the weights of commits lie while they are evaluated: training that goes on may remove a commit meanwhile."""


@dataclass(frozen=True)
class Subject:
    """Networks of the run at `run`: as exported, or with the weights of `stage` from a commit, kept in the file `weights` of the run.

    sha256: hash of the networks and of the settings that build them, the same whether they are exported or in a commit.
    """

    run: str
    stage: str
    sha256: str
    commit: str | None = None
    weights: str | None = None

    @property
    def words(self) -> str:
        """For people."""
        return f"commit {self.commit} of {self.stage}" if self.commit else "the exported networks"


def subjects(folder: RunFolder, stage: str, commit: str | None) -> list[Subject]:
    """What `commit` names: None the exported networks of a stage that has ended, a commit's name, or `all`, the oldest first.

    Raises InputError when there are none such, or the export of an earlier stage is missing. Of `all`, commits that are damaged, or removed
    meanwhile, are left out with a line; one that is named is refused.
    """
    if commit is None:
        folder.require(stage)
        return [_subject(folder, stage, None, None)]
    found = folder.commits(stage).records()[::-1]
    chosen = [record for record in found if commit in ("all", record.name)]
    if not chosen:
        names = ", ".join(record.name for record in found) or "none yet"
        raise InputError(f"run {folder.uri} has no commit {commit} of stage {stage}; give `all` or one of: {names}")
    subjects: list[Subject] = []
    try:
        for record in chosen:
            subjects += _of_commit(folder, stage, record, commit == "all")
    except BaseException:
        forget(folder, subjects)
        raise
    if not subjects:
        raise InputError(f"all commits of stage {stage} of run {folder.uri} are damaged; restore their files")
    return subjects


def forget(folder: RunFolder, subjects: Sequence[Subject]) -> None:
    """Remove the weights that were kept for an evaluation of `subjects`."""
    for path in {subject.weights for subject in subjects if subject.weights}:
        folder.store.delete(path)


def _of_commit(folder: RunFolder, stage: str, record: Commit, others: bool) -> list[Subject]:
    try:
        return [_subject(folder, stage, record.name, committed_weights(folder, stage, record))]
    except Damaged as error:
        if not others:
            raise InputError(
                f"commit {record.name} of stage {stage} is damaged, or training has removed it ({error}); choose another, or `all`"
            ) from None
        print(f"evaluate: commit {record.name} is left out: {error}", flush=True)
        return []


def _subject(folder: RunFolder, stage: str, commit: str | None, weights: bytes | None) -> Subject:
    sha256 = networks_sha256(exported_files(folder.store, stage, weights), folder.run, stage)
    kept = None
    if weights is not None:
        kept = f"{KEPT}/{sha256[:16]}-{secrets.token_hex(4)}.safetensors"  # another evaluation of the same commit removes its own
        folder.store.write(kept, weights)
    return Subject(folder.uri, stage, sha256, commit, kept)


def pair_generator(subject: Subject, device: torch.device) -> tuple[Generator, Run]:
    """The pair generator of `subject`, on `device`, and the settings of its run."""
    folder, files = _checked(subject)
    return load_generator(folder, files[WEIGHTS["pairs"]]).to(device), folder.run


def video_generator(subject: Subject, device: torch.device) -> VideoGenerator:
    """All its networks, on `device`."""
    folder, files = _checked(subject)
    return VideoGenerator.of_files(folder.store, folder.run, 0.0, files, device)


def _checked(subject: Subject) -> tuple[RunFolder, dict[str, bytes]]:
    """The run and the files of `subject`. Raises InputError when they are no longer what they were when the evaluation began."""
    folder = read_run(subject.run)
    try:
        own = folder.store.read(subject.weights) if subject.weights else None
    except FileNotFoundError:
        raise InputError(f"{subject.weights} of run {subject.run} was removed while it was evaluated; evaluate again") from None
    files = exported_files(folder.store, subject.stage, own)
    if networks_sha256(files, folder.run, subject.stage) != subject.sha256:
        raise InputError(f"the networks of run {subject.run} have changed since the evaluation began; evaluate again")
    return folder, files
