"""How fast stage 1 trains on a cluster, what bounds it, and what would not work at all."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mvgan.config import InputError, Run
from mvgan.scaling import rates
from mvgan.scaling.cluster import Cluster, Videos, check
from mvgan.scaling.exchange import COPY_GB_PER_S, Exchange, commit_bytes, commit_seconds
from mvgan.scaling.reading import BLOCK_S, Reading, Shards, Stream


MANIFEST_SHARE = 0.3
"""Of a node's memory that manifests may fill: objects take as much, and workers and decoding the rest."""

MOST_BLOCKS = 100_000
"""Groups of sources that one job of Ray Data is given: its driver lists each as an object. Assumed."""

LEAST_TICK_S = 5.0
"""Between two records: each draws samples on one worker while the others wait, and writes all records so far again. Assumed."""

LONGEST_START_S = 60.0
"""That a decoding process may take before its first window; one that Ray starts anew takes as long."""

LIST_PAGE = 1000
"""Keys that S3 lists at once."""


@dataclass(frozen=True)
class Resource:
    """Something that training takes, and what it would allow if it were the only bound."""

    name: str
    pairs_per_s: float
    words: str
    """How the figure comes about."""


@dataclass(frozen=True)
class Answer:
    """What the simulation gives."""

    workers: int
    nodes: int
    batch: int
    compute_s: float
    """Of a step."""
    exchange_s: float
    """Of a step, after it."""
    resources: tuple[Resource, ...]
    """What works side by side; the step is the first."""
    obstacles: tuple[str, ...]
    """What would not work, or hardly, with what to change."""
    facts: tuple[str, ...]
    """Sizes and costs beside training."""
    hours: float
    """Of the whole stage."""
    dollars: float

    @property
    def pairs_per_s(self) -> float:
        """Of all workers together: that of what bounds."""
        return self.bound.pairs_per_s

    @property
    def bound(self) -> Resource:
        """What allows least."""
        return min(self.resources, key=lambda resource: resource.pairs_per_s)

    @property
    def bottleneck(self) -> str:
        """Its name; of a step, whether computing or the exchange of gradients takes most of it."""
        bound = self.bound
        if bound is not self.resources[0]:
            return bound.name
        return "GPU" if self.compute_s >= self.exchange_s else "all-reduce"


def simulate(run: Run, workers: int, cluster: Cluster, videos: Videos) -> Answer:
    """Stage 1 of `run` with a worker on each of so many GPUs. Raises InputError for numbers that no cluster has."""
    check(cluster, videos)
    shards = run.pairs.batch // run.pairs.group
    if not 1 <= workers <= shards:
        raise InputError(
            f"{workers} workers cannot share {shards} logical shards (a batch of {run.pairs.batch} in groups of {run.pairs.group}); "
            f"give --workers 1 to {shards}, or --pairs.batch {workers * run.pairs.group} or more"
        )
    nodes = math.ceil(workers / cluster.gpus_per_node)
    # Shards are dealt out whole, and a step ends with the worker that hosts most.
    largest = math.ceil(shards / workers) * run.pairs.group
    compute_s = cluster.step_seconds or rates.step_seconds(run, largest, cluster.gpu_speed, cluster.core_speed)
    exchange_s = Exchange.of(run).seconds(workers, cluster)
    resources = (_step(run, compute_s, exchange_s), *_beside(run, workers, nodes, cluster, videos))
    rate = min(resource.pairs_per_s for resource in resources)
    hours = run.pairs.total_kimg * 1000 / rate / 3600
    return Answer(
        workers, nodes, run.pairs.batch, compute_s, exchange_s, resources,
        tuple(_obstacles(run, nodes, cluster, videos, rate)), tuple(_facts(run, nodes, cluster, videos)),
        hours, hours * nodes * cluster.node_dollars,
    )  # fmt: skip


def _step(run: Run, compute_s: float, exchange_s: float) -> Resource:
    """Steps, and the copies that stop them."""
    copies_s = commit_bytes(run) / COPY_GB_PER_S / 1e9 * run.pairs.batch / (run.pairs.commit_kimg * 1000)
    step_s = compute_s + exchange_s + copies_s
    words = f"{1000 * compute_s:.1f} ms of computing, {1000 * exchange_s:.1f} ms of all-reduce, {1000 * copies_s:.2f} ms of commits' copies"
    return Resource("GPU step", run.pairs.batch / step_s, words)


def _beside(run: Run, workers: int, nodes: int, cluster: Cluster, videos: Videos) -> Iterator[Resource]:
    """What works beside the steps."""
    reading = Reading.of(run, videos, Shards.of(run, videos), cluster)
    stream = Stream.of(run, workers, nodes, cluster)
    core_s = reading.decode_s + reading.draw_s
    words = f"{workers * stream.cpu_tasks} tasks at once; a pair takes {1000 * core_s:.2f} ms of a core"
    words += f", {1000 * reading.draw_s:.2f} of them to draw windows" if reading.draw_s > reading.decode_s / 10 else ""
    words += f", and {1000 * reading.wait_s:.2f} ms of waiting for S3" if reading.wait_s else ""
    yield Resource("decoding", workers * stream.cpu_tasks / reading.task_s, words)
    words = f"has room for {workers * stream.store_tasks} tasks at once"
    yield Resource("object store", workers * stream.store_tasks / reading.task_s, words)
    yield Resource("streams", workers * stream.block_pairs / BLOCK_S, f"{stream.block_pairs:g} pairs a block, {1000 * BLOCK_S:g} ms each")
    if reading.requests:
        gets = cluster.s3_gets_per_s * cluster.s3_prefixes
        yield Resource("S3 requests", gets / reading.requests, f"{reading.requests:.2f} a pair, {gets:g}/s granted")
    if videos.on_s3 and reading.source_bytes:
        speed = nodes * cluster.network_gb_per_s * 1e9
        words = f"{reading.source_bytes / 1e6:.2f} MB a pair, {speed / 1e9:g} GB/s of {nodes} nodes"
        yield Resource("S3 bytes", speed / reading.source_bytes, words)
    yield Resource("commits", run.pairs.commit_kimg * 1000 / commit_seconds(run, cluster), _commit_words(run, cluster))


def _commit_words(run: Run, cluster: Cluster) -> str:
    return f"{commit_bytes(run) / 1e6:.0f} MB each {run.pairs.commit_kimg:g} kimg, written in {commit_seconds(run, cluster):.1f} s"


def _obstacles(run: Run, nodes: int, cluster: Cluster, videos: Videos, rate: float) -> Iterator[str]:
    shards = Shards.of(run, videos)
    held = cluster.cpus_per_node * rates.VIDEO_MEMORY * videos.num_videos
    if held > MANIFEST_SHARE * cluster.memory_gb * 1e9:
        yield (
            f"manifests: {cluster.cpus_per_node} processes of a node hold {held / 1e9:,.0f} GB of them, more than {MANIFEST_SHARE:.0%} of "
            "its memory; join videos into longer ones before ingest, or train on a part of them"
        )
    if shards.groups > MOST_BLOCKS:
        yield (
            f"ingest: {shards.groups:,.0f} groups of sources are too many for one job of Ray Data; raise --ingest.shard-mb as far as the "
            "memory of a core allows, or train on a part of the videos"
        )
    if (start_s := _start_seconds(shards, cluster, videos)) > LONGEST_START_S:
        yield (
            f"start: each process that decodes lists all shards and reads the manifest first, {start_s:,.0f} s; fewer and larger shards "
            "(--ingest.shard-mb), or a part of the videos"
        )
    tick_s = run.pairs.tick_kimg * 1000 / rate
    if tick_s < LEAST_TICK_S:
        yield f"records: one each {tick_s:.2g} s; give --pairs.tick-kimg {math.ceil(LEAST_TICK_S * rate / 1000)}"
    commit_s, write_s = run.pairs.commit_kimg * 1000 / rate, commit_seconds(run, cluster)
    if commit_s < 2 * write_s:
        kimg = math.ceil(10 * write_s * rate / 1000)
        yield f"commits: one each {commit_s:.2g} s, and each takes {write_s:.2g} s to write; give --pairs.commit-kimg {kimg}"


def _start_seconds(shards: Shards, cluster: Cluster, videos: Videos) -> float:
    """Of a process that opens the shard set."""
    listing_s = _pages(shards.count) * cluster.s3_latency_s if videos.on_s3 else 0.0
    return listing_s + rates.VIDEO_US * 1e-6 * videos.num_videos / cluster.core_speed


def _pages(objects: float) -> int:
    return math.ceil(objects / LIST_PAGE)


def _facts(run: Run, nodes: int, cluster: Cluster, videos: Videos) -> Iterator[str]:
    shards = Shards.of(run, videos)
    cores = nodes * cluster.cpus_per_node + cluster.decode_cpus
    yield (
        f"shard set: {shards.count:,.0f} shards of {shards.num_bytes / shards.count / 1e6:,.3g} MB, {shards.num_bytes / 1e12:,.3g} TB; "
        f"manifest {shards.manifest_bytes / 1e6:,.3g} MB"
    )
    asked = f"ask {cores * (_pages(shards.count) + 1):,} requests and " if videos.on_s3 else ""
    yield (
        f"start of a decoding process: {_start_seconds(shards, cluster, videos):,.3g} s; {cores:,} of them {asked}"
        f"read {cores * shards.manifest_bytes / 1e9:,.3g} GB"
    )
    core_hours = videos.num_frames * rates.ingest_seconds(run.resolution) / cluster.core_speed / 3600
    listing_s = _pages(videos.num_videos) * cluster.s3_latency_s
    yield (
        f"ingest: {core_hours:,.3g} core hours for sources of 360x288 pixels (larger ones take more), {core_hours / cores:,.3g} h on all "
        f"cores; listing the videos {listing_s:,.3g} s before that"
    )


def lines(answer: Answer, run: Run, cluster: Cluster) -> Iterator[str]:
    """The answer for people."""
    each = answer.batch / answer.workers
    yield f"stage 1 at {run.resolution} px, GPUs: {answer.workers}, nodes: {answer.nodes}, {each:g} pairs a GPU and step"
    rate = answer.pairs_per_s
    yield f"throughput: {rate:,.1f} pairs/s, {1000 / rate:.3g} s a thousand pairs; bottleneck: {answer.bottleneck}"
    for resource in sorted(answer.resources, key=lambda resource: resource.pairs_per_s):
        used = f"{100 * rate / resource.pairs_per_s:5.1f} % used"
        yield f"  {resource.name:13} {used}, allows {resource.pairs_per_s:12,.1f} pairs/s: {resource.words}"
    cost = f", ${answer.dollars:,.0f}" if cluster.node_dollars else ""
    yield f"time: {answer.hours:,.1f} h for {run.pairs.total_kimg:,g} kimg{cost}"
    yield from answer.facts
    yield from (f"OBSTACLE: {words}" for words in answer.obstacles)
