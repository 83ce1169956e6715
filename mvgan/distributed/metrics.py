"""A training for Prometheus: what its records tell, through the endpoint that Ray has on each node (`cluster/grafana.json` shows it).

They are set by the process that leads the training, which outlives workers that are started again, whenever a record reaches it: no step
takes any notice. With that process they go.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ray.util.metrics import Counter, Gauge

from mvgan.train.exposed import EXPOSED
from mvgan.train.guard import SKIPPED
from mvgan.train.stage import DATA_WAIT
from mvgan.train.state import UNITS


TAGS = ("run", "stage")
"""URI of the run, and the stage."""

IMAGES, RATE, LAST_COMMIT = "mvgan_images", "mvgan_images_per_second", "mvgan_last_commit_timestamp_seconds"
LOSS, LOSSES = "mvgan_loss", "_loss"
"""The gauge, and how the metrics end that it shows, each with its name as the tag `loss`."""

FIGURES = {DATA_WAIT: "mvgan_data_wait_share", EXPOSED: "mvgan_exposed_comm_seconds", "frechet": "mvgan_frechet_distance"}
"""Gauges of other metrics, by the name of the metric."""

COUNTS = {"missed_commits": "mvgan_missed_commits_total", SKIPPED: "mvgan_skipped_steps_total"}
"""Counters, by the name of the metric; they begin with the process that leads."""

MEANINGS = {
    IMAGES: "Pairs or clips trained on, at the newest record",
    RATE: "Pairs or clips a second, between the last two records; 0 when the stage is over",
    LAST_COMMIT: "When the newest record came after which a commit is known to be written",
    LOSS: "Losses, averaged between the last two records",
    FIGURES[DATA_WAIT]: "Share of a step that waits for data",
    FIGURES[EXPOSED]: "Seconds of a step that wait for gradients of other workers, with several workers",
    FIGURES["frechet"]: "Newest Frechet distance in built-in features, which is not FID or FVD",
    COUNTS["missed_commits"]: "Commits that the storage refused",
    COUNTS[SKIPPED]: "Optimizer steps left out",
}

PREFIX = "ray_"
"""That Ray puts before each name."""


class Exported:
    """The metrics of one stage of a run."""

    def __init__(self, run: str, stage: str) -> None:
        self.tags, self.unit = {"run": run, "stage": stage}, UNITS[stage]
        gauges = MEANINGS.keys() - COUNTS.values()
        self._gauges = {name: Gauge(name, MEANINGS[name], (*TAGS, "loss") if name == LOSS else TAGS) for name in gauges}
        self._counters = {metric: Counter(name, MEANINGS[name], TAGS) for metric, name in COUNTS.items()}

    def tell(self, images: int, record: Mapping[str, float]) -> None:
        """Show a record of metrics, or a measure, after `images`."""
        self._set(IMAGES, images)
        for metric, name in {f"{self.unit}_per_s": RATE, **FIGURES}.items():
            if metric in record:
                self._set(name, record[metric])
        for metric in record:
            if metric.endswith(LOSSES):
                self._gauges[LOSS].set(record[metric], self.tags | {"loss": metric.removesuffix(LOSSES)})
        for metric, counter in self._counters.items():
            if record.get(metric):  # a counter takes no 0
                counter.inc(record[metric], self.tags)
        if "commit_write_s" in record and not record["missed_commits"]:
            self.committed()

    def committed(self) -> None:
        """A commit is written."""
        self._set(LAST_COMMIT, time.time())

    def idle(self) -> None:
        """Nothing trains any more."""
        self._set(RATE, 0)

    def _set(self, name: str, value: float) -> None:
        self._gauges[name].set(value, self.tags)


@contextmanager
def exported(run: str, stage: str) -> Iterator[Exported]:
    """The metrics of a stage while it is trained; when the block ends without an error its last commit is there."""
    metrics = Exported(run, stage)
    try:
        yield metrics
        metrics.committed()
    finally:
        metrics.idle()
