"""Every verb as a job: submitted to a real head that is closed with a token, with the least work that it can be given.

They go in a row, as later ones take what earlier ones have made: one that fails takes those along that need it. What a verb has made is
read by other means than its own, by PyAV, pyarrow and safetensors, and compared with what went in, or with what another verb has made of
the same.
"""

import base64
import csv
import io
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.submit import verbs
from tests.ray.head import Head, started
from tests.short_run import ROOT, SHORT
from tests.unit.importers.official_files import Networks
from tests.unit.metrics.i3d_files import random_i3d, table


NUM_CLIPS, CLIP_FRAMES, SIZE = 6, 72, 16
PAIRS, CLIPS = 640, 32
"""What SHORT trains on."""

TINY = [
    "--resolution", "16", "--network.channel-base", "512", "--network.channel-max", "64", "--network.z-dim", "64", "--network.w-dim", "64",
    "--network.mapping-layers", "2", *SHORT[SHORT.index("--pairs.total-kimg") :], "--video.eval-clips", "16",
]  # fmt: skip
"""The same on top of the preset that `reproduce --scale tiny` takes."""

LEFT = b"of an ingest that was killed"


@dataclass(frozen=True)
class Place:
    """A head, and what the verbs read and write."""

    head: Head
    clips: Path
    root: Path

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def run(self) -> Path:
        """The run that is trained stage by stage."""
        return self.root / "runs" / "stages"

    def job(self, verb: str, *words: str | Path, checkout: Path = ROOT) -> str:
        """Submit the verb, see that it ends well, and return what it has said."""
        began = time.monotonic()
        done = self.head.submit("--submission-id", f"{verb}-job", "--", verb, *map(str, words), checkout=checkout)
        print(f"{verb}: {time.monotonic() - began:.1f} s")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout and done.stdout.splitlines()[-1] == f"{verb}-job succeeded"
        return done.stdout


@pytest.fixture(scope="module")
def place(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with started() as head:
        yield Place(head, clips, tmp_path_factory.mktemp("verbs"))


def num_frames(video: bytes | Path) -> int:
    """As PyAV decodes it."""
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else str(video)) as file:
        return sum(1 for _ in file.decode(video=0))


def embedded(page: Path) -> list[bytes]:
    """The videos in a page."""
    return [base64.b64decode(text) for text in re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", page.read_text())]


def trained(metrics: Path) -> int:
    """Images at the last record."""
    return int(json.loads(metrics.read_text().splitlines()[-1])["images"])


def doctor(place: Place) -> None:
    said = place.job("doctor", "--storage", place.root / "runs", "--videos", place.clips, "--workers", "2", "--threads", "1")
    assert re.search(r"between 2 workers: .*\d GB/s|between 2 workers: .*\d MB/s", said), said
    assert not [path for path in (place.root / "runs").rglob("*") if path.is_file()], "something is left of what it tried"


def ingest(place: Place) -> None:
    place.job("ingest", "--preset", "smoke", "--videos", place.clips, "--out", place.shards)
    rows = [row for path in place.shards.rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert sum(row["num_frames"] for row in rows) == NUM_CLIPS * CLIP_FRAMES and len({row["video_id"] for row in rows}) == NUM_CLIPS


def inspect(place: Place) -> None:
    said = place.job("inspect", "--data", place.shards, "--out", place.root / "set.html")
    assert f"{NUM_CLIPS} videos, {NUM_CLIPS * CLIP_FRAMES} frames at {SIZE} px" in said
    assert re.search(rf"Frames</t[hd]><td>{NUM_CLIPS * CLIP_FRAMES}<", (place.root / "set.html").read_text())


def pairs(place: Place) -> None:
    place.job("pairs", *SHORT, "--data", place.shards, "--storage", place.run.parent, "--name", place.run.name)
    assert trained(place.run / "pairs/metrics.jsonl") == PAIRS
    assert all(tensor.isfinite().all() for tensor in load_file(place.run / "export/generator.safetensors").values())


def codes(place: Place) -> None:
    place.job("codes", "--run", place.run, "--threads", "1")
    found = load_file(place.run / "export/codes.safetensors")
    for side in ("backward", "forward"):
        torch.testing.assert_close(found[side] @ found[side].T, torch.eye(len(found[side])), atol=1e-4, rtol=0)


def video(place: Place) -> None:
    place.job("video", "--run", place.run, "--threads", "1")
    assert trained(place.run / "video/metrics.jsonl") == CLIPS


def pipeline(place: Place) -> None:
    """From videos, with the weights of the run that was trained verb by verb."""
    place.job("pipeline", *SHORT, "--videos", place.clips, "--storage", place.run.parent, "--name", "whole")
    for name in ("generator", "codes", "latent"):
        files = [folder / f"export/{name}.safetensors" for folder in (place.run, place.run.with_name("whole"))]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def report(place: Place) -> None:
    page = place.run / "report.html"
    assert not page.exists()
    place.job("report", "--run", place.run)
    assert embedded(page) and all(num_frames(movie) > 1 for movie in embedded(page))


def watch(place: Place) -> None:
    said = place.job("watch", "--run", place.run, "--every", "1")
    assert f"pairs: complete, {PAIRS} pairs" in said and f"video: complete, {CLIPS} clips" in said and "complete with stage video" in said


def generate(place: Place) -> None:
    out = place.root / "generated"
    place.job("generate", "--run", place.run, "--seeds", "0-2", "--frames", "9", "--format", "mp4", "--out", out)
    movies = sorted(out.rglob("*.mp4"))
    assert len(movies) == 3 and [num_frames(movie) for movie in movies] == [9] * 3


def explore(place: Place) -> None:
    place.job("explore", "--run", place.run, "--seeds", "0-1", "--frames", "9", "--codes", "2", "--steps", "3")
    (movie,) = embedded(place.run / "explorer.html")
    assert num_frames(movie) == 9


def evaluate(place: Place) -> None:
    said = place.job("evaluate", "--run", place.run, "--protocol", "all-clips", "--generated", "16", "--threads", "1")
    (file,) = (place.run / "evaluation").glob("*.json")
    result = json.loads(file.read_text())
    # Of each video those clips of 16 frames, 4 apart, that do not overlap.
    assert result["generated_samples"] == [16] and result["real_samples"] == [NUM_CLIPS * (CLIP_FRAMES // (16 * 4))]
    assert result["distance"] > 0 and math.isfinite(result["distance"]) and f"{result['distance']:.4g}" in said


def gc(place: Place) -> None:
    before = {path for path in place.shards.rglob("*") if path.is_file()}
    left = place.shards / "shards" / "left.parquet"
    left.write_bytes(LEFT)
    said = place.job("gc", "--data", place.shards)
    assert f"removed 1 leftovers of {len(LEFT)} bytes" in said
    assert not left.exists() and before <= {path for path in place.shards.rglob("*") if path.is_file()}


def sweep(place: Place) -> None:
    """Of the numbers of codes: the pair generator is trained once."""
    settings = ["--preset", "tiny", *TINY, "--num-codes", "2", "4"]
    place.job("sweep", *settings, "--data", place.shards, "--storage", place.root / "sweeps", "--name", "one")
    folder = place.root / "sweeps" / "one"
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert sorted(row["num_codes"] for row in rows) == ["2", "4"] and all(float(row["frechet"]) > 0 for row in rows)
    assert {int(row["clips"]) for row in rows} == {CLIPS} and len(list(folder.glob("pairs/*"))) == 1


def commits(folder: Path) -> dict[Path, int]:
    """By the times when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*/commits/*.json")}


def reproduce(place: Place) -> None:
    """Table II, whose row is a trial of the sweep: nothing is trained, and the published figure stands beside it."""
    folder = place.root / "sweeps" / "one"
    before = commits(folder)
    there = ["--data", place.shards, "--storage", folder.parent, "--name", folder.name]
    place.job("reproduce", "table2", "--scale", "tiny", *TINY, "--num-codes", "4", *there)
    (row,) = csv.DictReader((folder / "table2.csv").read_text().splitlines())
    (trial,) = (row for row in csv.DictReader((folder / "sweep.csv").read_text().splitlines()) if row["num_codes"] == "4")
    assert row["frechet"] == trial["frechet"] and commits(folder) == before and "1031.4" in (folder / "table2.html").read_text()


def import_weights(place: Place) -> None:
    theirs, file = Networks(SIZE), place.root / "official.pkl"
    file.write_bytes(theirs.file())
    place.job("import_weights", file, "--out", place.root / "imported")
    ours = load_file(place.root / "imported/generator.safetensors")
    assert any(torch.equal(tensor, theirs.g["mapping.w_avg"]) for tensor in ours.values())


def features(place: Place) -> None:
    """The network of FVD is published elsewhere; submitted is a checkout whose table has a random one in its place."""
    weights, other, checkout = random_i3d(0), random_i3d(1), place.root / "checkout"
    for folder in ("jobs", "mvgan"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".rayignore", checkout)
    with (checkout / "mvgan/metrics/i3d_variables.csv").open("w", newline="") as text:
        rows = csv.DictWriter(text, ["variable", "shape", "fvd", "rgb_imagenet"], lineterminator="\n")
        rows.writeheader()
        for one in table(weights, other):
            crcs = {network: f"{crc:08x}" for network, crc in one.crcs.items()}
            rows.writerow({"variable": one.name, "shape": "x".join(map(str, one.shape)), **crcs})
    save_file(weights, place.root / "network.safetensors")
    place.job("features", "check", place.root / "network.safetensors", "--out", place.root / "kept.safetensors", checkout=checkout)
    kept = load_file(place.root / "kept.safetensors")
    assert kept.keys() == weights.keys() and all(torch.equal(kept[name], weights[name]) for name in weights)


def scale(place: Place) -> None:
    """Its hours are those of its rate."""
    said = place.job("scale", "--preset", "ucf101", "--workers", "64", "--pairs.batch", "2048", "--pairs.total-kimg", "768000")
    rate, hours = (float(re.search(form, said)[1].replace(",", "")) for form in (r"throughput: ([\d,.]+) pairs/s", r"time: ([\d,.]+) h"))  # type: ignore[index]
    assert hours == pytest.approx(768e6 / rate / 3600, abs=0.051, rel=1e-3)


def bench(place: Place) -> None:
    """The ratio of one round is that of its two sides."""
    small = ["--resolution", str(SIZE), "--channel-base", "64", "--batch", "4"]
    said = place.job("bench", "video-step", *small, "--rounds", "1", "--seconds", "1", "--warm-seconds", "0.5")
    measured = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    ours, theirs = (side["per_core_s"] for side in measured["medians"].values())
    assert measured["rounds"] == 1 and ours > 0 and measured["ratio"] == pytest.approx(ours / theirs, rel=0.02)


VERBS: list[Callable[[Place], None]] = [
    doctor, ingest, inspect, pairs, codes, video, pipeline, report, watch, generate, explore, evaluate, gc, sweep, reproduce,
    import_weights, features, scale, bench,
]  # fmt: skip


def test_no_verb_is_left_out() -> None:
    assert sorted(verb.__name__ for verb in VERBS) == verbs()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_it_runs_as_a_job(verb: Callable[[Place], None], place: Place) -> None:
    verb(place)


def test_a_place_that_is_lost_with_the_job_is_refused(place: Place) -> None:
    """Reference: what Ray itself tells a job of its upload."""
    done = place.head.submit("--submission-id", "lost", "--", "pipeline", "--preset", "smoke", "--videos", str(place.clips))
    assert done.returncode == 2 and "error: --storage runs would be in the job's own copy of the code" in done.stdout, done.stdout
    assert done.stdout.splitlines()[-1] == "lost failed with status 2; its last lines are above"
