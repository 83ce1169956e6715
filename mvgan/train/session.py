"""One worker's part in training a stage of a run: build the stage, go on from its newest commit, fit.

The same function serves one process and every worker of Ray Train; only where the batches come from differs.
"""

import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mvgan.config import InputError, Run
from mvgan.data.shards import ShardSet
from mvgan.data.windows import Windows, clip_windows, decode_window, pair_windows
from mvgan.motion.codes import strengths
from mvgan.motion.distribution import fit_distribution
from mvgan.nets.generator import Generator
from mvgan.sample import Generator as VideoGenerator
from mvgan.storage.commit import Commit, Commits
from mvgan.storage.run import RunFolder
from mvgan.train.committer import Committer
from mvgan.train.export import WEIGHTS, check_codes, load_weights, read_exported, read_tensors
from mvgan.train.hooks import Evaluator, History, Look, Recorder, Sampler, Say, Ticker, both
from mvgan.train.initial import begin
from mvgan.train.measure import clip_measure, pair_measure
from mvgan.train.memory import too_large
from mvgan.train.outbox import Outbox
from mvgan.train.pairs import PairStage
from mvgan.train.pictures import pair_pictures, video_rows
from mvgan.train.ranks import Ranks
from mvgan.train.stage import Hook, Plan, Stage, fit
from mvgan.train.state import UNITS, Progress, from_bytes, seed_of
from mvgan.train.trackers import maker
from mvgan.train.tracking import Tracking
from mvgan.train.tripwires import Tripwires, wires_of
from mvgan.train.video import VideoStage
from mvgan.validation import check_tracker


logger = logging.getLogger(__name__)

Batches = Callable[[int, Ranks], Iterator[Tensor]]
"""Gives the batches of a worker from the sample after the given number of images on."""

TRAINED = ("pairs", "video")

LEAVE_S = 60.0
"""Most that the end of a stage waits for a tracker."""

UNWIND_S = 10.0
"""Most that an error which ends training waits for files that people look at."""


def num_shards(run: Run, name: str) -> int:
    """Logical shards of a stage's global batch."""
    config = run.pairs if name == "pairs" else run.video
    return config.batch // config.group


def group_of(run: Run, name: str) -> int:
    """Samples of a logical shard in a step."""
    return (run.pairs if name == "pairs" else run.video).group


def windows_of(run: Run, shards: ShardSet, name: str) -> Windows:
    """The training windows of a stage."""
    return pair_windows(shards, run) if name == "pairs" else clip_windows(shards, run)


def check_data(shards: ShardSet, run: Run, name: str) -> None:
    """Raise InputError when the shards do not serve a stage: another resolution, or no video long enough.

    Warns of videos that are too short for the stage and so never drawn.
    """
    if shards.resolution != run.resolution:
        raise InputError(
            f"{shards.uri} holds frames of {shards.resolution} px, the run is of {run.resolution} px; ingest again or change --resolution"
        )
    short = len(shards) - windows_of(run, shards, name).num_drawn
    if short:
        logger.warning("%s: %d of %d videos are too short and are left out", name, short, len(shards))


def check_workers(run: Run, name: str, workers: int) -> None:
    """Raise InputError when a stage has no logical shard for each worker."""
    if workers < 1:
        raise InputError(f"{workers} workers cannot train; give --workers 1 or more")
    ranks = Ranks(num_shards(run, name), group_of(run, name), 0, workers)
    if name == "pairs":
        ranks.parts(run.pairs.accumulate)


def plan_of(run: Run, name: str, num_videos: int) -> Plan:
    """Length and rhythm of a stage. An epoch of stage 3 is one clip per video."""
    if name == "pairs":
        config = run.pairs
        tick, commit = round(config.tick_kimg * 1000), round(config.commit_kimg * 1000)
        return Plan(round(config.total_kimg * 1000), config.batch, tick, commit, config.evaluations)
    total = round(run.video.epochs * num_videos) if run.video.epochs else run.video.total_clips
    return Plan(total, run.video.batch, run.video.tick_clips, run.video.commit_clips, run.video.evaluations)


@dataclass(frozen=True)
class Worker:
    """Which worker this is, where it computes, where its lines go, and how long it bears with a storage that refuses it."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    say: Say = print
    max_missed_commits: int = 3
    patience_s: float = 300.0
    """The most that one step waits for the storage."""
    track: str = "none"
    """Tracker that is told the metrics, by its name."""
    tell: Look = lambda images, record: None
    """Told, on the first worker, each record of metrics and each measure."""
    stop: Callable[[], str] = lambda: ""
    """Says why training shall commit and end; empty while it shall go on."""


def train_worker(folder: RunFolder, name: str, epoch: int, batches: Batches, worker: Worker) -> Progress:
    """Train stage `name` to its end on this worker. `epoch` is the driver's claim; returns the last progress.

    Raises NonFinite on all workers together when the numbers fail, MissedCommits on the first when the storage does, and Stopped there
    once it has committed because `worker.stop` asked, InputError
    before its first commit when the memory of the GPU holds no step, with the batch that it does hold, or at once when the tracker cannot
    be had here.
    """
    check_tracker(worker.track)
    try:
        return _train(folder, name, epoch, batches, worker)
    except torch.OutOfMemoryError as error:
        words = str(error)  # with the error go the frames of the step, and what they hold
    ranks = Ranks(num_shards(folder.run, name), group_of(folder.run, name), worker.rank, worker.world)

    def build(run: Run, some: Ranks) -> Stage:
        return build_stage(dataclasses.replace(folder, run=run), name, some, worker.device)

    # A run that has got as far as a commit has had room enough: it may have it again.
    begun = folder.commits(name).newest() is not None
    refusal = None if begun else too_large(folder.run, name, ranks, build, worker.device, words)
    raise refusal or torch.OutOfMemoryError(words)


def _train(folder: RunFolder, name: str, epoch: int, batches: Batches, worker: Worker) -> Progress:
    run = folder.run
    be_deterministic(run.deterministic)
    shards = ShardSet.open(folder.data, verify=False)
    ranks = Ranks(num_shards(run, name), group_of(run, name), worker.rank, worker.world)
    stage = build_stage(folder, name, ranks, worker.device)
    plan = plan_of(run, name, len(shards))
    progress, history, commit = _resume(folder, name, stage, ranks, worker)
    if commit is None and isinstance(stage, PairStage) and run.pairs.init_from is not None:
        begin(stage, run.pairs.init_from, worker.say)
    with ExitStack() as beside:
        # Whatever ends training, the commit that is being written is written to its end, and what it meets is raised.
        hooks: list[Hook] = [Ticker(plan, ranks, None)]
        if worker.rank == 0:
            outbox = Outbox(folder.store, worker.say)
            beside.push(_leaves(outbox, worker.patience_s))
            tracking = _tracking(folder, name, history, worker, beside)
            # So a storage that refuses is an alarm and not yet a step that waits too long.
            commits = Commits(folder.store.bounded(worker.patience_s / 3), name)
            committer = Committer(
                name, commits, epoch, plan, history, outbox, worker.say, worker.max_missed_commits, commit, worker.patience_s,
                worker.stop,
            )  # fmt: skip
            beside.callback(committer.close)
            look = both(Tripwires(wires_of(run, name), worker.say).look, worker.tell)
            record = Recorder(name, plan, outbox, history, committer.figures, worker.say, progress, look)
            beside.callback(record.close)
            hooks = [Ticker(plan, ranks, record), *_beside(folder, name, stage, plan, shards, history, outbox, worker, look)]
            hooks += [*tracking, committer]
        return fit(stage, on_device(batches(progress.images, ranks), worker.device), progress, plan, hooks)


def on_device(batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The batches on `device`; on a GPU each is copied while the step before it is at work, from pinned memory on a stream of its own."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = torch.cuda.Stream(device)

    def copied() -> Tensor | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(copies):
            return batch.pin_memory().to(device, non_blocking=True)

    ahead = copied()
    while ahead is not None:
        computes = torch.cuda.current_stream(device)
        computes.wait_stream(copies)
        ahead.record_stream(computes)  # its memory may be given to another copy only when the step is over
        batch, ahead = ahead, copied()
        yield batch


def _tracking(folder: RunFolder, name: str, history: History, worker: Worker, beside: ExitStack) -> list[Hook]:
    """The hook that tells the tracker, if there is one; as `beside` ends, what waits is told."""
    if worker.track == "none":
        return []
    tracking = Tracking(worker.track, maker(worker.track, folder, name), history, worker.say)

    def leave(kind: type[BaseException] | None, *_: object) -> None:
        tracking.leave(kind is None, min(worker.patience_s / 3, LEAVE_S if kind is None else UNWIND_S))

    beside.push(leave)
    return [tracking]


def _leaves(outbox: Outbox, patience_s: float) -> Callable[..., None]:
    """At the end of training writes what waits; an error is not kept waiting by a storage that may be its cause."""

    def leave(kind: type[BaseException] | None, *_: object) -> None:
        outbox.leave(patience_s / 3 if kind is None else min(patience_s / 3, UNWIND_S))

    return leave


def _resume(
    folder: RunFolder, name: str, stage: Stage, ranks: Ranks, worker: Worker
) -> tuple[Progress, History, Commit | None]:  # fmt: skip
    """Give the stage the state of the newest commit, if there is one; returns how far that is, its history, and itself."""
    commits = folder.commits(name)
    commit = commits.newest()
    # A request of a writer that was killed may still arrive between the looks of two workers.
    if not ranks.agree([commit.images, commit.epoch] if commit else [-1, -1], worker.device):
        raise RuntimeError(f"{name}: the workers found different newest commits; they must start again")
    if commit is None:
        return Progress(), [], None
    stage.load_state_dict(from_bytes(commits.read(commit, "state.pt")))
    if worker.rank == 0:
        worker.say(f"{name}: goes on from its commit at {commit.images} {UNITS[name]}")
    return Progress(commit.images, commit.meta["elapsed_s"]), json.loads(commits.read(commit, "history.json")), commit


def be_deterministic(on: bool) -> None:
    """Use only kernels whose results do not vary, or any; before this process first computes on a GPU.

    An operation that has no such kernel raises RuntimeError then.
    """
    if on:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read by cuBLAS when it starts
        torch.backends.cudnn.benchmark = False  # its choice of kernels depends on timing
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.deterministic = on


def build_stage(folder: RunFolder, name: str, ranks: Ranks, device: torch.device) -> PairStage | VideoStage:
    """A fresh stage; stage 3 takes the exported generator and codes of the stages before it."""
    if name == "pairs":
        return PairStage(folder.run, ranks, device)
    by_motion = folder.run.video.step == "motion"
    codes = read_tensors(folder.store, "codes.safetensors", "backward", "forward", *(["mean_grams"] if by_motion else []))
    stacked = torch.stack([codes["backward"], codes["forward"]])
    scale = motion_scale(stacked, codes["mean_grams"], folder) if by_motion else None
    weights = read_exported(folder.store, WEIGHTS["pairs"])
    check_codes(folder.store, weights)
    generator = load_generator(folder, weights)
    spread = spread_of(generator, folder.run) if folder.run.video.reach_weight else None
    return VideoStage(folder.run, ranks, device, generator, stacked, scale, spread)


def motion_scale(codes: Tensor, grams: Tensor, folder: RunFolder, windows: int = 16) -> Tensor:
    """Length of a step along each of `codes` [2, num_codes, w_dim], or of W+, that changes its frame as much as time does: [2, num_codes].

    To first order a step a along code n changes its frame by a^2 n^T J^T J n (eq. 5), with the mean Grams [2, w_dim, w_dim], or of W+,
    to which latents count alike: so it is the change at a usual latent, and not at those few where frames change most.
    Time changes the frames that one side shows in turn, two strides apart, by the mean square measured on real clips.
    """
    shards = ShardSet.open(folder.data, verify=False)
    drawn = clip_windows(shards, folder.run, "motion")
    clips = np.concatenate([decode_window(shards, drawn[index]) for index in range(windows)]).astype(np.float32) / 127.5
    motion = float(np.square(clips[:, 2:] - clips[:, :-2]).mean())
    return torch.stack([(motion / strengths(side, gram)).sqrt() for side, gram in zip(codes, grams, strict=True)]).float()


def load_generator(folder: RunFolder, weights: bytes | None = None) -> Generator:
    """The exported pair generator of a run, or that of a safetensors file with these `weights`, in evaluation mode on the CPU."""
    generator = Generator(folder.run.network, folder.run.resolution)
    load_weights(folder.store, "generator.safetensors", generator, weights)
    return generator.eval().requires_grad_(False)


def spread_of(generator: Generator, run: Run) -> Tensor:
    """Lower triangular factor of the covariance of mapped w, float64 [w_dim, w_dim] on the CPU; the same in every process of a run."""
    draw, device = torch.Generator().manual_seed(seed_of(run.seed, "spread")), next(generator.parameters()).device
    return fit_distribution(generator.mapping, draw, run.network.z_dim, device).factor


def _beside(
    folder: RunFolder, name: str, stage: Stage, plan: Plan, shards: ShardSet, history: History, outbox: Outbox, worker: Worker, look: Look
) -> list[Hook]:
    """Samples and measures of a stage, for the first worker."""
    run, device = folder.run, worker.device
    if isinstance(stage, PairStage):
        hooks: list[Hook] = [Sampler(name, plan, outbox, lambda: pair_pictures(stage.ema, run, device))]
        measure = pair_measure(shards, run, stage.ema, device) if plan.evaluations else None
    else:
        assert isinstance(stage, VideoStage)
        hooks = [Sampler(name, plan, outbox, lambda: {".png": video_rows(stage)})]
        generator = VideoGenerator(run, 0.0, stage.pair_generator, stage.codes, stage.latent)
        measure = clip_measure(shards, run, generator, device) if plan.evaluations else None
    return [*hooks, Evaluator(name, plan, outbox, history, measure, worker.say, look)] if measure else hooks


def local_batches(shards: ShardSet, run: Run, name: str) -> Batches:
    """Batches decoded in this process: what a worker of a cluster gets as a stream."""
    windows = windows_of(run, shards, name)

    def batches(images: int, ranks: Ranks) -> Iterator[Tensor]:
        decoded = ((index, decode_window(shards, windows[index])) for index in window_order(images, ranks, windows.items_per_window))
        return batches_from_windows(decoded, images, ranks, windows.items_per_window)

    return batches


def window_order(images: int, ranks: Ranks, items_per_window: int) -> Iterator[int]:
    """Endless window indices of a worker after `images` samples, as `window_at` gives them."""
    return (window_at(place, images, ranks, items_per_window) for place in itertools.count())


def window_at(place: int, images: int, ranks: Ranks, items_per_window: int) -> int:
    """The window that a worker reads as number `place` after `images` samples: the next of each shard it hosts, in turn.

    Logical shard s reads the windows s, s + S, s + 2S, ... of S shards.
    """
    turn, host = divmod(place, len(ranks.hosted))
    return ranks.hosted[host] + (images // ranks.batch * ranks.group // items_per_window + turn) * ranks.num_shards


def batches_from_windows(decoded: Iterator[tuple[int, np.ndarray]], images: int, ranks: Ranks, items_per_window: int) -> Iterator[Tensor]:
    """Cut the windows of a worker, in order, into its batches: one group of each hosted shard, side by side.

    decoded: (index, uint8 [items, t, 3, h, w]), from the window that holds the sample after `images` on.
    """
    expected = window_order(images, ranks, items_per_window)
    place = images // ranks.batch * ranks.group % items_per_window
    while True:
        parts = []
        for _ in ranks.hosted:
            item = next(decoded, None)
            if item is None:
                return
            index, frames = item
            wanted = next(expected)
            if index != wanted:
                raise RuntimeError(f"the stream gave window {index} where {wanted} was due")
            parts.append(frames)
        for start in range(place, items_per_window, ranks.group):
            yield torch.from_numpy(np.concatenate([part[start : start + ranks.group] for part in parts]))
        place = 0
