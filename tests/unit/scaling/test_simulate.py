"""The simulation. References: mvgan's own code for what is copied from it, counting for what is an expectation, and arithmetic by hand."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import jobs.scale
from jobs._cli import main
from mvgan.config import Ingest, InputError, Pairs, Run
from mvgan.data import ingest, shards
from mvgan.data.ingest import group_sources
from mvgan.data.sources import Source
from mvgan.data.windows import decode_window, pair_windows
from mvgan.distributed import data, resources, sweep
from mvgan.presets import preset
from mvgan.scaling import reading
from mvgan.scaling import sweep as simulated_sweep
from mvgan.scaling.cluster import Cluster, Videos
from mvgan.scaling.exchange import commit_seconds
from mvgan.scaling.rates import draw
from mvgan.scaling.reading import Reading, Shards, Stream
from mvgan.scaling.simulate import Answer, simulate
from mvgan.storage import holder, s3


LARGE = Videos(num_videos=2_000_000, video_frames=3000, source_tb=200)


def scaled(**pairs: Any) -> Run:
    """The paper's network with 16,384 pairs a step."""
    run = preset("ucf101")
    return replace(run, pairs=replace(run.pairs, **{"batch": 16384, **pairs}))


def test_what_is_copied_is_as_in_the_code() -> None:
    ours = {name: getattr(reading, name) for name in ("ROWS_PER_GROUP", "OPEN_FILES", "CACHED_BYTES")}
    assert ours == {name: getattr(shards, name) for name in ours}
    ours = {name: getattr(reading, name) for name in ("STORE_SHARE", "TASK_BYTES", "BLOCK_BYTES", "BLOCK_WINDOWS")}
    assert ours == {name: getattr(data, name) for name in ours}
    assert (reading.MIN_GROUP_BYTES, reading.GROUPS) == (ingest.MIN_GROUP_BYTES, ingest.GROUPS)
    assert reading.READ_AHEAD_BYTES == s3.READ_AHEAD_BYTES
    assert (simulated_sweep.LEADER_BYTES, simulated_sweep.POLL_S) == (resources.LEADER_BYTES, sweep.POLL_S)
    assert simulated_sweep.BEAT_S == holder.BEAT_S


class Counted:
    """Shards without frames, which count what is asked of them."""

    frames_per_piece = 16
    lengths = np.full(16, 100_000)

    def __init__(self) -> None:
        self.pieces = self.decoded = 0

    def frames(self, video: int, piece: int, places: Sequence[int]) -> np.ndarray:
        self.pieces += 1
        self.decoded += places[-1] + 1
        return np.zeros((len(places), 3, 1, 1), np.uint8)


@pytest.mark.parametrize(("interval", "pairs"), [((4,), 1), ((4,), 4), ((4,), 16), ((2, 3, 20), 4), ((40,), 8)])
def test_pieces_and_frames_of_a_draw(interval: tuple[int, ...], pairs: int) -> None:
    """The mean over windows that are really drawn."""
    run = Run(interval=interval, pairs=Pairs(pairs_per_piece=pairs))
    counted, windows = Counted(), 200
    drawn = pair_windows(counted, run)
    for index in range(windows):
        decode_window(counted, drawn[index])
    draws, expected = windows * run.pairs.pieces_per_window, draw(run, pairs)
    assert counted.pieces / draws == pytest.approx(expected.pieces, rel=0.02)
    assert counted.decoded / draws == pytest.approx(expected.frames, rel=0.02)


@pytest.mark.parametrize(("count", "size"), [(5000, 10_000_000), (60, 500_000_000), (40, 1_000_000)])
def test_groups_of_sources(count: int, size: int) -> None:
    sources = [Source(id=str(n), path=str(n), num_bytes=size, files=(str(n),), is_folder=False) for n in range(count)]
    groups = len(list(group_sources(sources, 64 << 20)))
    found = Shards.of(Run(), Videos(num_videos=count, source_tb=count * size / 1e12))
    assert found.groups == pytest.approx(groups, rel=0.1)


@pytest.mark.parametrize(("workers", "nodes", "memory_gb", "px"), [(8, 1, 1024, 256), (512, 64, 64, 1024), (3, 1, 16, 64)])
def test_the_share_of_a_stream(workers: int, nodes: int, memory_gb: float, px: int) -> None:
    cluster = Cluster(memory_gb=memory_gb, cpus_per_node=32)
    store = nodes * min(reading.MOST_STORE, reading.STORE_OF_MEMORY * memory_gb * 1e9)
    window = 64 * 2 * 3 * px**2
    limits = data.Limits.of(nodes * 32, store, workers).for_windows(window)
    found = Stream.of(Run(resolution=px), workers, nodes, cluster)
    assert min(found.cpu_tasks, found.store_tasks) == limits.tasks
    assert found.block_pairs == 64 * data.windows_together(limits, window)[0]


BOUNDS: dict[str, tuple[Run, int, Cluster]] = {
    "GPU": (preset("ucf101"), 1, Cluster()),
    "all-reduce": (scaled(batch=2048), 512, Cluster(network_gb_per_s=0.5, s3_prefixes=100)),
    "S3 requests": (scaled(), 512, Cluster()),
    "S3 bytes": (preset("ucf101"), 1, Cluster(network_gb_per_s=0.01)),
    "decoding": (scaled(), 512, Cluster(cpus_per_node=9, s3_prefixes=100)),
    "object store": (scaled(), 512, Cluster(memory_gb=10, s3_prefixes=100)),
    "streams": (scaled(), 512, Cluster(gpu_speed=100, core_speed=100, s3_prefixes=1000, s3_latency_s=1e-4, network_gb_per_s=400,
                                       s3_stream_gb_per_s=10, upload_gb_per_s=100, decode_cpus=10**6)),
    "commits": (scaled(commit_kimg=20), 512, Cluster(s3_prefixes=100)),
}  # fmt: skip


@pytest.mark.parametrize("bound", BOUNDS)
def test_what_is_scarce_is_the_bottleneck(bound: str) -> None:
    """And the throughput is what it allows: no resource is used by more than all of it."""
    run, workers, cluster = BOUNDS[bound]
    if bound == "streams":
        run = replace(run, pairs=replace(run.pairs, commit_kimg=20000))
    found = simulate(run, workers, cluster, Videos())
    assert found.bottleneck == bound, found
    assert found.pairs_per_s == min(resource.pairs_per_s for resource in found.resources)


def test_a_bottleneck_by_hand() -> None:
    """1,000 reads a second, of two million videos, in shards of which hardly one is open: three reads for four pairs."""
    found = simulate(scaled(), 512, Cluster(s3_gets_per_s=1000), LARGE)
    groups = 1 + (draw(scaled(), 4).pieces - 1) / 16
    assert found.pairs_per_s == pytest.approx(1000 / ((groups + 2) / 4), rel=1e-3)
    assert found.hours == pytest.approx(25e6 / found.pairs_per_s / 3600)
    from_disk = simulate(scaled(), 512, Cluster(s3_gets_per_s=1000), replace(LARGE, on_s3=False))
    assert from_disk.bottleneck == "commits" and "S3" not in str([resource.name for resource in from_disk.resources])


def test_measured_figures_go_before_predictions() -> None:
    found = simulate(preset("ucf101"), 1, Cluster(step_seconds=0.5, decode_pairs_per_s=10), Videos(on_s3=False))
    rates = {resource.name: resource.pairs_per_s for resource in found.resources}
    assert rates["GPU step"] == pytest.approx(32 / 0.5, rel=1e-3)
    per_window_s = 35e-9 * 13320 / 64
    assert rates["decoding"] == pytest.approx(127 / (0.1 + per_window_s), rel=1e-6)


def test_the_worker_with_most_shards_sets_the_pace() -> None:
    """8 logical shards: three workers host 3, 3 and 2 of them."""
    three, four = (simulate(preset("ucf101"), workers, Cluster(), Videos()).compute_s for workers in (3, 4))
    alone = simulate(replace(preset("ucf101"), pairs=replace(preset("ucf101").pairs, batch=12)), 1, Cluster(), Videos()).compute_s
    assert three == alone > four


def obstacles(run: Run, videos: Videos) -> set[str]:
    return {words.split(":")[0] for words in simulate(run, 512, Cluster(), videos).obstacles}


def test_what_would_not_work_is_said() -> None:
    small = replace(scaled(tick_kimg=400, commit_kimg=2000), ingest=Ingest(shard_mb=1024))
    assert not obstacles(small, Videos())
    assert obstacles(scaled(tick_kimg=4, commit_kimg=50), Videos()) == {"records", "commits"}
    assert obstacles(small, Videos(num_videos=10**7, video_frames=45_000, source_tb=10_000)) == {"manifests", "ingest", "start"}


def test_commits_are_serialised_and_sent() -> None:
    run, parameters = preset("ucf101"), (30_043_191, 28_864_513)
    gigabytes = 4 * (4 * parameters[0] + 3 * parameters[1]) / 1e9
    assert commit_seconds(run, Cluster(upload_gb_per_s=0.5)) == pytest.approx(gigabytes / 0.87 + gigabytes / 0.5)


def test_small_sets_are_kept_in_memory() -> None:
    """Row groups that a process keeps are asked for no more."""
    set_of = Videos(num_videos=64, video_frames=75, source_tb=3e-5)
    found = Reading.of(Run(), set_of, Shards.of(Run(), set_of), Cluster())
    assert (found.requests, found.source_bytes, found.wait_s) == (0, 0, 0)


def answer() -> Answer:
    return simulate(preset("ucf101"), 4, Cluster(node_dollars=30), Videos())


def test_a_sweep() -> None:
    """16 GPUs hold four trainings of 4 workers at once: ten take three rounds."""
    one = answer()
    found = simulated_sweep.sweep(one, preset("ucf101"), 10, 2, Cluster(node_dollars=30))
    assert (found.at_once, found.bottleneck) == (4, "GPU")
    assert found.hours == pytest.approx(3 * one.hours) and found.dollars == pytest.approx(found.hours * 60)
    crowded = simulated_sweep.sweep(one, preset("ucf101"), 400, 200, Cluster())
    assert crowded.bottleneck == "S3 requests" and crowded.hours > one.hours
    with pytest.raises(InputError, match="nothing would train"):
        simulated_sweep.sweep(replace(one, workers=64), preset("ucf101"), 10, 2, Cluster())


def call(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr("sys.argv", ["scale", *flags])
    try:
        main(jobs.scale.run, jobs.scale.Flags, "")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_verb_tells(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--preset",
        "ucf101",
        "--workers",
        "8",
        "--pairs.batch",
        "256",
        "--cluster.node-dollars",
        "30",
        "--trials",
        "3",
        "--sweep-nodes",
        "2",
    )
    assert call(monkeypatch, *flags) == 0
    said = capsys.readouterr().out
    (rate,) = re.findall(r"throughput: ([\d,.]+) pairs/s", said)
    (hours, dollars) = re.findall(r"time: ([\d.]+) h for 25,000 kimg, \$([\d,]+)", said)[0]
    assert float(hours) == pytest.approx(25e6 / float(rate.replace(",", "")) / 3600, rel=0.01)
    assert float(dollars.replace(",", "")) == pytest.approx(30 * float(hours), rel=0.01)
    assert "bottleneck: GPU" in said and "sweep: 3 pair generators, 2 at once" in said


REFUSED = {
    "workers": (("--workers", "9"), "9 workers cannot share 8 logical shards"),
    "none": (("--workers", "0"), "workers is 0"),
    "cores": (("--cluster.cpus-per-node", "8"), "leaves no core to decoding"),
    "zero": (("--cluster.s3-gets-per-s", "0"), "--cluster.s3-gets-per-s is 0; give a number above 0"),
    "negative": (("--videos.source-tb", "-1"), "--videos.source-tb is -1"),
    "infinite": (("--cluster.gpu-speed", "inf"), "--cluster.gpu-speed is inf"),
    "unread": (("--hang-s", "5"), "reads no --hang-s"),
    "sweep": (("--trials", "5"), "nothing would train"),
    "settings": (("--resolution", "100"), "resolution"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line(case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags, words = REFUSED[case]
    assert call(monkeypatch, "--preset", "ucf101", *flags) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and not said.out


def test_every_number_of_a_cluster_counts() -> None:
    """None is asked for that changes nothing: each, doubled, changes the answer of some case."""
    run = scaled(batch=8192)
    cases = [
        (run, 512, cluster, videos)
        for cluster in (Cluster(), Cluster(decode_cpus=7))
        for videos in (Videos(), replace(LARGE, frame_bytes=1e4))
    ]
    cases.append((run, 8, Cluster(step_seconds=1, decode_pairs_per_s=5, node_dollars=1), Videos()))
    cases.append((run, 8, Cluster(memory_gb=10), Videos()))
    for kind, place in ((Cluster, 2), (Videos, 3)):
        for field in dataclasses.fields(kind):
            if field.name == "on_s3":
                continue
            changed = False
            for case in cases:
                other = list(case)
                other[place] = replace(case[place], **{field.name: 2 * getattr(case[place], field.name)})  # type: ignore[type-var]
                changed |= simulate(*case) != simulate(*other)  # type: ignore[arg-type]
            assert changed, field.name
