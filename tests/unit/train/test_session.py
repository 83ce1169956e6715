"""A worker's part in a run: batches from windows, and going on after being killed."""

import dataclasses
import hashlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from mvgan.config import InputError, Network, Pairs, Run, Video
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.synthetic import render_set
from mvgan.data.windows import clip_windows, decode_window
from mvgan.media import decode_png
from mvgan.storage.run import RunFolder, open_run, read_run
from mvgan.train.export import export_weights
from mvgan.train.guard import NonFinite
from mvgan.train.ranks import Ranks
from mvgan.train.session import (
    Batches,
    Worker,
    batches_from_windows,
    build_stage,
    local_batches,
    motion_scale,
    on_device,
    plan_of,
    train_worker,
    window_order,
)  # fmt: skip
from mvgan.train.state import from_bytes


ITEMS = 12
RUN = Run(
    resolution=16,
    stride=2,
    num_codes=3,
    network=Network(z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8, precision="fp32"),
    # Windows of 12 pairs, ticks every 3 steps and commits every 4: no border coincides with another.
    pairs=Pairs(
        total_kimg=0.128, batch=8, group=4, r1_every=3, pl_every=2, tick_kimg=0.024, commit_kimg=0.032, evaluations=2, eval_pairs=16,
        pieces_per_window=3, pairs_per_piece=4, mirror=True,
    ),
    video=Video(
        total_clips=96, batch=8, group=4, num_frames=4, hidden=8, g_steps=1, d_channels=2, d_scales=1, tick_clips=24, commit_clips=32,
        pieces_per_window=12,
    ),
)  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the process."""


def stream(ranks: Ranks, images: int, windows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of a worker in order; each item is one pixel that tells window and place."""
    for index in itertools.islice(window_order(images, ranks, ITEMS), windows):
        yield index, (100 * index + np.arange(ITEMS)).reshape(ITEMS, 1, 1, 1, 1)


def groups(world: int, shards: int, images: int, steps: int) -> list[list[list[int]]]:
    """Samples of each logical shard at each step: [steps][shards][group]."""
    found: list[list[list[int]]] = [[[] for _ in range(shards)] for _ in range(steps)]
    for rank in range(world):
        ranks = Ranks(shards, 4, rank, world)
        batches = batches_from_windows(stream(ranks, images), images, ranks, ITEMS)
        for step in range(steps):
            rows = next(batches).flatten().tolist()
            for place, shard in enumerate(ranks.hosted):
                found[step][shard] = rows[4 * place : 4 * place + 4]
    return found


def by_hand(shards: int, images: int, steps: int) -> list[list[list[int]]]:
    """Logical shard s reads the windows s, s + S, s + 2S, ... one after another, four samples a step."""
    series = {s: [100 * (s + shards * turn) + i for turn in range(20) for i in range(ITEMS)] for s in range(shards)}
    first = images // shards
    return [[series[s][first + 4 * step : first + 4 * step + 4] for s in range(shards)] for step in range(steps)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("steps_before", [0, 1, 2, 3, 7])
def test_any_number_of_workers_sees_the_same_groups(world: int, steps_before: int) -> None:
    """Reference: each logical shard's series by hand, from any step on, in the middle of windows too."""
    images = steps_before * 5 * 4
    assert groups(world, 5, images, 8) == by_hand(5, images, 8)


def test_window_order() -> None:
    """By hand: 3 logical shards on 2 workers; 2 groups of 4 of a window's 12 items are used up after 24 images."""
    assert list(itertools.islice(window_order(0, Ranks(3, 4, 0, 2), ITEMS), 6)) == [0, 2, 3, 5, 6, 8]
    assert list(itertools.islice(window_order(0, Ranks(3, 4, 1, 2), ITEMS), 3)) == [1, 4, 7]
    assert next(window_order(24, Ranks(3, 4, 1, 2), ITEMS)) == 1
    assert next(window_order(36, Ranks(3, 4, 1, 2), ITEMS)) == 4


def test_an_unexpected_window_is_refused() -> None:
    """A stream that starts at another commit than the stage must not feed it other samples in silence."""
    ranks = Ranks(2, 4)
    batches = batches_from_windows(stream(ranks, 24), 0, ranks, ITEMS)
    with pytest.raises(RuntimeError, match="stream gave window 2 where 0 was due"):
        next(batches)


def test_a_stream_that_ends_ends_the_batches() -> None:
    ranks = Ranks(2, 4)
    assert len(list(batches_from_windows(stream(ranks, 0, windows=4), 0, ranks, ITEMS))) == 2 * ITEMS // 4


def test_plan_of() -> None:
    """An epoch of stage 3 is one clip per video; without epochs the number of clips holds. Lengths in kimg become images."""
    plan = plan_of(RUN, "pairs", 4)
    assert (plan.total, plan.batch, plan.tick, plan.commit, plan.evaluations) == (128, 8, 24, 32, 2)
    assert plan_of(RUN, "video", 4).total == 96
    epochs = dataclasses.replace(RUN, video=dataclasses.replace(RUN.video, epochs=2.5))
    assert plan_of(epochs, "video", 63).total == 158


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    videos, out = (str(tmp_path_factory.mktemp(name)) for name in ("videos", "shards"))
    render_set(videos, num_videos=4, num_frames=20, size=16, seed=3)
    plan = plan_ingest(videos, out, RUN)
    begin(plan)
    finish(plan, [ingest_group(group) for group in plan.groups])
    return ShardSet.open(out)


def killed_after(batches: Batches, steps: int) -> Batches:
    """The same batches, and the end of the process instead of the one after `steps`."""

    def short(images: int, ranks: Ranks) -> Iterator[Tensor]:
        yield from itertools.islice(batches(images, ranks), steps)
        raise Killed

    return short


def train(folder: RunFolder, name: str, data: ShardSet, kills: tuple[int, ...]) -> None:
    """Train to the end, killed after so many steps of each try but the last."""
    batches = local_batches(data, folder.run, name)
    for steps in kills:
        with pytest.raises(Killed):
            train_worker(folder, name, folder.commits(name).claim({}), killed_after(batches, steps), Worker(say=lambda line: None))
    train_worker(folder, name, folder.commits(name).claim({}), batches, Worker(say=lambda line: None))


def outcome(folder: RunFolder, name: str) -> tuple[dict[str, Any], list[dict[str, Any]], set[str]]:
    """Final state, metrics without times, and the pictures drawn."""
    commit = folder.require(name)
    state = from_bytes(folder.commits(name).read(commit, "state.pt"))
    lines = folder.store.read(f"{name}/metrics.jsonl").decode().splitlines()
    timeless = re.compile(r"(?!elapsed_s$|.*_per_s$|commit_.*_s$|.*_phase_s$|data_wait_share$|peak_.*_mb$)")
    history = [{key: value for key, value in json.loads(line).items() if timeless.match(key)} for line in lines]
    return state, history, {path.removeprefix("samples/") for path in folder.store.list("samples/")}


def equal(a: Any, b: Any) -> bool:
    """Whether two states hold the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.fixture(scope="module")
def unbroken(data: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose stages were never killed, with random codes for stage 3."""
    folder = open_run(str(tmp_path_factory.mktemp("run") / "unbroken"), RUN, data.uri)
    train(folder, "pairs", data, ())
    export_weights(folder, "pairs")
    codes = torch.linalg.qr(torch.randn(8, 6, generator=torch.Generator().manual_seed(0))).Q.t()
    tensors = {"backward": codes[:3].contiguous(), "forward": codes[3:].contiguous()}
    folder.store.write("export/codes.safetensors", save(tensors))
    weights = hashlib.sha256(folder.store.read("export/generator.safetensors")).hexdigest()
    folder.store.write("export/codes.json", json.dumps({"generator_sha256": weights}).encode())
    train(folder, "video", data, ())
    return folder


@pytest.mark.parametrize("name", ["pairs", "video"])
@pytest.mark.parametrize("kills", [(2,), (5,), (6, 5)])
def test_a_killed_run_ends_as_an_unbroken_one(
    name: str, kills: tuple[int, ...], unbroken: RunFolder, data: ShardSet, tmp_path: Path
) -> None:
    """Reference: the unbroken run: the same bits, metrics and pictures; killed before the first commit, after it, and twice."""
    folder = open_run(str(tmp_path / "killed"), RUN, data.uri)
    for path in unbroken.store.list("export/"):
        folder.store.write(path, unbroken.store.read(path))
    train(folder, name, data, kills)
    state, history, pictures = outcome(folder, name)
    wanted_state, wanted_history, wanted_pictures = outcome(unbroken, name)
    assert equal(state, wanted_state)
    assert history == wanted_history
    assert pictures == {picture for picture in wanted_pictures if picture.startswith(name)}


def test_history(unbroken: RunFolder) -> None:
    """Measures at the start, half-way and the end, in order; every record says how many images it follows."""
    _, history, pictures = outcome(unbroken, "pairs")
    assert [record["images"] for record in history if "frechet" in record] == [0, 64, 128]
    images = [record["images"] for record in history if "g_loss" in record]
    assert images == sorted({24, 48, 72, 96, 120} | {32, 64, 96, 128})
    assert {"pairs-000000000.png", "pairs-000000128.png", "video-000000096.png"} <= pictures
    losses = [record["images"] for record in outcome(unbroken, "video")[1]]
    assert losses == [24, 32, 48, 64, 72, 96]


def test_pairs_flip_in_a_clip(unbroken: RunFolder) -> None:
    """Its frames are the sides of the picture of the same step in turn, as near as H.264 keeps them."""
    picture = decode_png(unbroken.store.read("samples/pairs-000000128.png"))
    sides = picture.reshape(3, picture.shape[1], 8, 2, -1)
    with av.open(io.BytesIO(unbroken.store.read("samples/pairs-000000128.mp4"))) as movie:
        frames = [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in movie.decode(video=0)]
    assert len(frames) == 8
    for number, frame in enumerate(frames):
        ours, other = (sides[:, :, :, side].reshape(frame.shape).astype(float) for side in (number % 2, 1 - number % 2))
        assert np.abs(frame - ours).mean() < 0.5 * np.abs(frame - other).mean()


def test_training_a_finished_stage_again_does_nothing(unbroken: RunFolder, data: ShardSet) -> None:
    before = unbroken.store.read("pairs/metrics.jsonl")
    progress = train_worker(unbroken, "pairs", 10**4, lambda images, ranks: iter(()), Worker(say=lambda line: None))
    assert progress.images == 128 and unbroken.store.read("pairs/metrics.jsonl") == before


def test_numbers_that_stay_not_finite_end_training(data: ShardSet, tmp_path: Path) -> None:
    """Weights that a step has thrown far off, still finite, are not committed; it says which phase failed, and where."""
    run = dataclasses.replace(RUN, max_skipped=2, pairs=dataclasses.replace(RUN.pairs, lr=1e30, evaluations=0, commit_kimg=0.016))
    folder = open_run(str(tmp_path / "run"), run, data.uri)
    with pytest.raises(NonFinite, match=r"pairs: loss or gradients of D not finite up to (16|24|32) pairs, 3 times in a row"):
        train(folder, "pairs", data, ())
    assert folder.commits("pairs").newest() is None


def test_export_is_what_was_committed(unbroken: RunFolder) -> None:
    """Reference: the averaged generator in the last commit."""
    from safetensors.torch import load

    exported = load(unbroken.store.read("export/generator.safetensors"))
    assert equal(exported, outcome(unbroken, "pairs")[0]["ema"])
    about = json.loads(unbroken.store.read("export/config.json"))
    assert about["fps"] == pytest.approx(float(np.median(ShardSet.open(unbroken.data).fps)))


def test_the_best_commit_feeds_stage_2(data: ShardSet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one with the smallest Frechet distance, or the next one that is whole; each says who it is by its one weight."""
    from mvgan.train.state import to_bytes

    folder = open_run(str(tmp_path / "run"), dataclasses.replace(RUN, codes=dataclasses.replace(RUN.codes, select="best")), data.uri)
    commits = folder.commits("pairs")
    epoch = commits.claim({})
    for images, frechet in ((8, 3.0), (16, 1.0), (24, 2.0), (32, 4.0)):
        state = to_bytes({"ema": {"weight": torch.tensor([float(images)])}})
        commits.write(images, epoch, {"state.pt": state}, {"complete": images == 32, "frechet": frechet})

    def exported() -> float:
        export_weights(folder, "pairs")
        return float(load(folder.store.read("export/generator.safetensors"))["weight"])

    assert exported() == 16
    for best, then in ((16, 24), (24, 8)):
        (path,) = Path(folder.uri).glob(f"pairs/data/{best:012d}-*/state.pt")
        path.write_bytes(path.read_bytes()[:-1])
        assert exported() == then
        assert f"commit {best:012d}-00001, the best by its Frechet distance, is passed over" in caplog.text


def test_a_step_moves_as_much_as_time(tiny_run: RunFolder) -> None:
    """Reference: eq. 5 by numpy, n^T J^T J n a^2, equals the mean square between real frames two strides apart."""
    tensors = load(tiny_run.store.read("export/codes.safetensors"))
    codes, grams = torch.stack([tensors["backward"], tensors["forward"]]), tensors["mean_grams"]
    scale = motion_scale(codes, grams, tiny_run, windows=3)
    shards = ShardSet.open(tiny_run.data)
    windows = clip_windows(shards, tiny_run.run, "motion")
    clips = np.concatenate([decode_window(shards, windows[index]) for index in range(3)]) / 127.5 - 1
    motion = np.mean([(clip[t + 2] - clip[t]) ** 2 for clip in clips for t in range(len(clip) - 2)])
    for side in range(2):
        for n, a in zip(codes[side].double().numpy(), scale[side].double().numpy(), strict=True):
            assert (a * n) @ grams[side].numpy() @ (a * n) == pytest.approx(motion, rel=1e-5)


def test_stage_3_refuses_codes_of_another_generator(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Before anything is trained: the weights were changed after the codes were found."""
    shutil.copytree(tiny_run.uri, tmp_path / "run")
    path = tmp_path / "run/export/generator.safetensors"
    weights = load(path.read_bytes())
    weights["mapping.w_avg"] = weights["mapping.w_avg"] + 1
    path.write_bytes(save(weights))
    with pytest.raises(InputError, match="codes of another generator"):
        build_stage(read_run(str(tmp_path / "run")), "video", Ranks(1, 4), torch.device("cpu"))


def test_batches_come_on_the_device_of_the_stage(tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device that is not the CPU, "meta", which holds shapes alone: what training is given lies where its networks do."""
    given: list[Tensor] = []

    def fit(stage: Any, batches: Iterator[Tensor], *_: Any) -> None:
        given.append(next(batches))
        assert {parameter.device.type for parameter in stage.generator.parameters()} == {"meta"}

    monkeypatch.setattr("mvgan.train.session.fit", fit)
    run = dataclasses.replace(tiny_run.run, pairs=dataclasses.replace(tiny_run.run.pairs, evaluations=0))
    folder = open_run(str(tmp_path / "run"), run, tiny_run.data)
    batches = local_batches(ShardSet.open(tiny_run.data), run, "pairs")
    train_worker(folder, "pairs", folder.commits("pairs").claim({}), batches, Worker(device=torch.device("meta")))
    assert [(batch.device.type, batch.shape) for batch in given] == [("meta", (8, 2, 3, 16, 16))]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_batches_are_copied_to_a_gpu_one_ahead_and_in_order() -> None:
    device, read = torch.device("cuda"), []

    def batches() -> Iterator[Tensor]:
        for number in range(50):
            read.append(number)
            yield torch.full((8, 2, 3, 64, 64), number, dtype=torch.uint8)

    for number, batch in enumerate(on_device(batches(), device)):
        assert batch.device.type == "cuda" and bool((batch == number).all())
        assert read[-1] == min(number + 1, 49)


def test_given_weights_keep_their_average(tiny_run: RunFolder, tmp_path: Path) -> None:
    """With a half-life of 10 kimg a step of 8 pairs moves it by 0.06 % of the way to the weights, which one step has led elsewhere."""
    source = Path(shutil.copytree(f"{tiny_run.uri}/export", tmp_path / "source"))
    pairs = dataclasses.replace(
        tiny_run.run.pairs, init_from=str(source), lr=0.01, ema_kimg=10, total_kimg=0.008, tick_kimg=0.008, commit_kimg=0.008
    )  # fmt: skip
    run = dataclasses.replace(tiny_run.run, pairs=dataclasses.replace(pairs, evaluations=0))
    folder, shards = open_run(str(tmp_path / "run"), run, tiny_run.data), ShardSet.open(tiny_run.data)
    train_worker(folder, "pairs", folder.commits("pairs").claim({}), local_batches(shards, run, "pairs"), Worker())
    state = from_bytes(folder.commits("pairs").read(folder.require("pairs"), "state.pt"))
    given = load((source / "generator.safetensors").read_bytes())
    name = "synthesis.blocks.0.conv1.weight"
    share = 1 - 0.5 ** (8 / 10000)
    torch.testing.assert_close(state["ema"][name] - given[name], share * (state["generator"][name] - given[name]), rtol=0.02, atol=1e-6)
    assert (state["generator"][name] - given[name]).abs().mean() > 1e-3
