"""The networks that are evaluated: those that a run has exported, or those of its commits."""

import hashlib
from dataclasses import dataclass

import torch

from mvgan.config import InputError, Run
from mvgan.nets.generator import Generator
from mvgan.sample import Generator as VideoGenerator
from mvgan.storage.commit import Commit, Damaged
from mvgan.storage.run import RunFolder, read_run
from mvgan.train.export import WEIGHTS, committed_weights
from mvgan.train.session import load_generator


EXPORTS = {"pairs": (WEIGHTS["pairs"],), "video": (WEIGHTS["pairs"], "codes.safetensors", WEIGHTS["video"])}
"""The files of what a stage has made together with those before it."""


@dataclass(frozen=True)
class Subject:
    """Networks of the run at `run`: as exported, or with the weights of `stage` from a commit.

    sha256: hash of the networks, the same whether they are exported or in a commit.
    """

    run: str
    stage: str
    sha256: str
    commit: str | None = None

    @property
    def words(self) -> str:
        """For people."""
        return f"commit {self.commit} of {self.stage}" if self.commit else "the exported networks"


def subjects(folder: RunFolder, stage: str, commit: str | None) -> list[Subject]:
    """What `commit` names: None the exported networks of a stage that has ended, a commit's name, or `all`, the oldest first.

    Raises InputError when there are none such, or the export of an earlier stage is missing. Damaged commits are left out of `all`, with a
    line; the name of one is refused.
    """
    if commit is None:
        folder.require(stage)
        return [Subject(folder.uri, stage, _sha256(folder, stage, None))]
    found = folder.commits(stage).records()[::-1]
    chosen = [record for record in found if commit in ("all", record.name)]
    if not chosen:
        names = ", ".join(record.name for record in found) or "none yet"
        raise InputError(f"run {folder.uri} has no commit {commit} of stage {stage}; give `all` or one of: {names}")
    subjects = [subject for record in chosen if (subject := _of_commit(folder, stage, record, commit == "all"))]
    if not subjects:
        raise InputError(f"all commits of stage {stage} of run {folder.uri} are damaged; restore their files")
    return subjects


def _of_commit(folder: RunFolder, stage: str, record: Commit, others: bool) -> Subject | None:
    try:
        return Subject(folder.uri, stage, _sha256(folder, stage, committed_weights(folder, stage, record)), record.name)
    except Damaged as error:
        if not others:
            raise InputError(f"commit {record.name} of stage {stage} is damaged ({error}); restore its files, or choose another") from None
        print(f"evaluate: commit {record.name} is left out: {error}", flush=True)
        return None


def _sha256(folder: RunFolder, stage: str, weights: bytes | None) -> str:
    """Hash of the networks, those of `stage` itself in `weights` where that is not None. Raises InputError when a file is missing."""
    try:
        files = [weights if weights and name == WEIGHTS[stage] else folder.store.read(f"export/{name}") for name in EXPORTS[stage]]
    except FileNotFoundError:
        names = ", ".join(EXPORTS[stage])
        raise InputError(f"run {folder.uri} lacks one of {names} in export/; run `python -m jobs.pipeline` on it again") from None
    return hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files)).hexdigest()


def pair_generator(subject: Subject, device: torch.device) -> tuple[Generator, Run]:
    """The pair generator of `subject`, on `device`, and the settings of its run."""
    folder = read_run(subject.run)
    return load_generator(folder, _committed(folder, subject)).to(device), folder.run


def video_generator(subject: Subject, device: torch.device) -> VideoGenerator:
    """All its networks, on `device`."""
    return VideoGenerator.load(subject.run, device, _committed(read_run(subject.run), subject))


def _committed(folder: RunFolder, subject: Subject) -> bytes | None:
    if subject.commit is None:
        return None
    for record in folder.commits(subject.stage).records():
        if record.name == subject.commit:
            return committed_weights(folder, subject.stage, record)
    raise InputError(f"commit {subject.commit} of run {folder.uri} is gone: training went on and removed it; evaluate again")
