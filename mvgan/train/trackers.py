"""The trackers behind `Tracking`: MLflow and Weights & Biases. Where they are, and who one is there, their own environment says."""

import functools
import importlib
import json
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvgan.config import STAGES, stage_of
from mvgan.settings import to_dict
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import Store
from mvgan.train.tracking import Tracker


IDENTITY = "tracking/id.json"
"""By this a run that goes on finds its run on a tracker. A copy of the folder is the same run there: remove `tracking/` from it."""

PROJECT = "mvgan"
"""Experiment or project where the tracker's environment names none."""

MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
WANDB_DEFAULTS = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
"""What is set unless the user has: requests end soon, since they are tried again, and nothing is said to third parties."""

LOG_HEADER, LOG_BLOCK, LOG_ENDS = 7, 32768, (1, 4)
"""Of W&B's files: bytes of the header of the file and of each part, of a block, and the kinds of part that end a record."""

MOST_PARAMS = 100
"""MLflow takes no more at once."""

INIT_S, FINISH_S = 30.0, 20.0
"""Most that W&B may take to begin, and to send what it holds at the end."""


@dataclass(frozen=True)
class About:
    """What a tracker is told of a run and of the stage that is trained."""

    store: Store
    stage: str
    settings: dict[str, str]
    """Those that are settled by now, by their dotted paths."""
    data: str

    @property
    def name(self) -> str:
        """Of the run."""
        return self.store.uri.rstrip("/").rpartition("/")[2]

    def identity(self) -> str:
        """Of the run, on every tracker: drawn once."""
        if not self.store.exists(IDENTITY):
            self.store.create(IDENTITY, json.dumps({"id": secrets.token_hex(8)}).encode())
        return str(json.loads(self.store.read(IDENTITY))["id"])


def about(folder: RunFolder, stage: str) -> About:
    """What a tracker is told when `stage` is trained; settings of later stages may still change."""
    settled = STAGES[: STAGES.index(stage) + 1]
    return About(
        folder.store, stage, {path: str(value) for path, value in _flat(to_dict(folder.run)) if stage_of(path) in settled}, folder.data
    )


def maker(name: str, folder: RunFolder, stage: str) -> Callable[[], Tracker]:
    """Makes the tracker called `name` for a stage."""
    kinds: dict[str, Callable[[About], Tracker]] = {"mlflow": Mlflow, "wandb": Wandb}
    return functools.partial(kinds[name], about(folder, stage))


class Mlflow:
    """A run of mvgan is a run of MLflow, found again by a tag; metrics are `<stage>/<figure>`, their step is images.

    What it was told of is a tag too, which goes with the metrics in one request.
    """

    def __init__(self, about: About) -> None:
        self.about, self.told = about, f"mvgan.told.{about.stage}"
        self.client: Any = None
        self.run_id = ""

    def start(self) -> int:
        """Find the run, or create it, and add settings that it does not have yet."""
        _set_defaults(MLFLOW_DEFAULTS)
        self.client = importlib.import_module("mlflow.tracking").MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else self.client.create_experiment(name)
        identity = self.about.identity()
        found = self.client.search_runs([where], f"tags.`mvgan.id` = '{identity}'", max_results=1)
        tags = {"mvgan.id": identity, "mvgan.run": self.about.store.uri, "mvgan.data": self.about.data}
        run = found[0] if found else self.client.create_run(where, run_name=self.about.name, tags=tags)
        self.run_id = run.info.run_id
        self.client.update_run(self.run_id, status="RUNNING")
        entities = importlib.import_module("mlflow.entities")
        missing = [entities.Param(key, value) for key, value in self.about.settings.items() if key not in run.data.params]
        for first in range(0, len(missing), MOST_PARAMS):
            self.client.log_batch(self.run_id, params=missing[first : first + MOST_PARAMS])
        return int(run.data.tags.get(self.told, -1))

    def record(self, images: int, figures: dict[str, float]) -> None:
        """One request."""
        entities, now = importlib.import_module("mlflow.entities"), round(time.time() * 1000)
        metrics = [entities.Metric(f"{self.about.stage}/{key}", value, now, images) for key, value in figures.items()]
        self.client.log_batch(self.run_id, metrics=metrics, tags=[entities.RunTag(self.told, str(images))])

    def end(self, complete: bool) -> None:
        """Say where the export is, and close the run."""
        if complete:
            self.client.set_tag(self.run_id, "mvgan.export", f"{self.about.store.uri}/export")
        self.client.set_terminated(self.run_id, "FINISHED" if complete else "FAILED")


class Wandb:
    """A stage is a run of W&B, all stages of a run of mvgan are a group; its step is images.

    W&B loses with a process what it has taken in the last seconds. So what it holds is asked of its server or, offline, of its files.
    """

    def __init__(self, about: About) -> None:
        self.about = about
        self.run: Any = None

    def start(self) -> int:
        """Begin the run by the id that it had before."""
        _set_defaults(WANDB_DEFAULTS)
        wandb: Any = importlib.import_module("wandb")
        settings = wandb.Settings(
            console="off", disable_git=True, disable_code=True, save_code=False, disable_job_creation=True, x_disable_meta=True,
            x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False, init_timeout=INIT_S, finish_timeout=FINISH_S,
        )  # fmt: skip
        identity = f"{self.about.identity()}-{self.about.stage}"
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=identity, resume="allow",
            name=f"{self.about.name}/{self.about.stage}", group=self.about.name, job_type=self.about.stage, settings=settings,
            config={**self.about.settings, "run_uri": self.about.store.uri, "data_uri": self.about.data}, reinit="return_previous",
        )  # fmt: skip
        if not self.run.offline:
            return int(self.run.step) - 1  # the next one that it takes
        files = sorted(Path(self.run.settings.wandb_dir).glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
        return max((step for file in files for step in steps_in(file.read_bytes())), default=-1)

    def record(self, images: int, figures: dict[str, float]) -> None:
        """Hand the figures to W&B's own process."""
        self.run.log(figures, step=images, commit=True)

    def end(self, complete: bool) -> None:
        """Say where the export is, and have all sent."""
        if complete:
            self.run.config.update({"export_uri": f"{self.about.store.uri}/export"}, allow_val_change=True)
        self.run.finish(exit_code=0 if complete else 1)
        importlib.import_module("wandb").teardown()  # `finish` may return before W&B's process has written the last records


def steps_in(log: bytes) -> Iterator[int]:
    """The steps in a file that W&B writes offline, up to where it breaks off.

    The format is LevelDB's log after a header: blocks of parts, each with a checksum (4 bytes), its length (2) and its kind (1).
    """
    record: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    place, whole = LOG_HEADER, b""
    while place + LOG_HEADER <= len(log):
        if LOG_BLOCK - place % LOG_BLOCK < LOG_HEADER:  # too short for a part
            place += LOG_BLOCK - place % LOG_BLOCK
            continue
        length, kind = struct.unpack("<HB", log[place + 4 : place + LOG_HEADER])
        end = place + LOG_HEADER + length
        if end > len(log):
            return
        whole += log[place + LOG_HEADER : end]
        place = end
        if kind in LOG_ENDS:
            found = record.FromString(whole)
            whole = b""
            if found.HasField("history"):
                yield int(found.history.step.num)


def _set_defaults(values: dict[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _flat(config: dict[str, Any], where: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        found += _flat(value, f"{where}{key}.") if isinstance(value, dict) else [(where + key, value)]
    return found
