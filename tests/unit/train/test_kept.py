"""What stage 2 keeps of a latent: taken where it is of these weights and settings, to the bit, and computed again where it is not."""

import dataclasses
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

import mvgan.train.codes as stage
from mvgan.config import Codes, Run
from mvgan.motion.factorize import Sample, factorize_latent
from mvgan.storage.run import RunFolder, open_run
from mvgan.storage.sealed import read_sealed
from mvgan.storage.uri import open_store
from mvgan.train.export import committed_weights
from mvgan.train.kept import FACTOR_SETTINGS, FOLDER, GRAM_SETTINGS, Kept, forget


ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A run of 6 latents whose stage 1 is done."""
    shutil.copytree(tiny_run.uri, tmp_path / "run", ignore=shutil.ignore_patterns("codes", "video", "codes.*", "latent.*"))
    return open_run(str(tmp_path / "run"), dataclasses.replace(tiny_run.run, latents=6), tiny_run.data)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is computed from here on, in its order."""
    done: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            done.append(name)
            return function(*args, **options)

        return call

    monkeypatch.setattr(stage, "pair_grams", counted("grams", stage.pair_grams))
    monkeypatch.setattr(stage, "factorize_latent", counted("factors", stage.factorize_latent))
    return done


def bits(sample: Sample) -> list[Any]:
    """All of a sample: the bytes of its tensors, with their strides, and its numbers."""
    values = [sample.grams, *(getattr(factor, f.name) for (factor,) in sample.factors for f in dataclasses.fields(factor))]
    return [(v.numpy().tobytes(), v.shape, v.stride(), v.dtype) if isinstance(v, Tensor) else (v, type(v)) for v in values]


def with_settings(folder: RunFolder, **codes: Any) -> RunFolder:
    return dataclasses.replace(folder, run=dataclasses.replace(folder.run, codes=dataclasses.replace(folder.run.codes, **codes)))


def test_the_second_call_computes_nothing_and_gives_the_same_bits(folder: RunFolder, computed: list[str]) -> None:
    first, other = stage.factorize(folder, 3, CPU), stage.factorize(folder, 4, CPU)
    assert computed == ["grams", "factors"] * 2 and not first.known
    again = stage.factorize(folder, 3, CPU)
    assert len(computed) == 4 and again.known and again.notes == ()
    assert bits(again.sample) == bits(first.sample) != bits(other.sample)


def test_what_is_kept_is_what_is_computed(folder: RunFolder) -> None:
    """Reference: the functions that compute, called without a store."""
    generator, config = stage.load_generator(folder), folder.run.codes
    w = stage.latents(generator, folder.run, "codes", 5, 1)[0]
    grams = stage.pair_grams(lambda w: stage.synthesize(generator, w), w, chunk=config.chunk)
    expected, found = factorize_latent(grams, config), stage.factorize(folder, 5, CPU).sample
    assert found.grams.dtype == torch.float64 and torch.equal(found.grams, grams)
    for (ours,), (theirs,) in zip(found.factors, expected.factors, strict=True):
        for field in dataclasses.fields(theirs):
            mine, value = getattr(ours, field.name), getattr(theirs, field.name)
            assert torch.equal(mine, value) if isinstance(value, Tensor) else (mine, type(mine)) == (value, type(value)), field.name
    (path,) = (path for path in folder.store.list(f"{FOLDER}/") if path.endswith(".grams"))
    tensors = load(read_sealed(folder.store, path))
    assert list(tensors) == ["grams"] and torch.equal(tensors["grams"], grams) and tensors["grams"].shape == (2, 32, 32)


@pytest.mark.parametrize("kind", ["grams", "factors"])
def test_a_damaged_file_is_told_and_made_again(folder: RunFolder, computed: list[str], kind: str) -> None:
    first = stage.factorize(folder, 0, CPU)
    (path,) = Path(folder.uri, FOLDER).glob(f"*.{kind}")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 8]) + whole[-4:])
    again = stage.factorize(folder, 0, CPU)
    assert computed == ["grams", "factors", kind]
    assert again.notes == (f"{path} is damaged, and computed again",) and not again.known
    assert bits(again.sample) == bits(first.sample) and path.read_bytes() == whole
    assert stage.factorize(folder, 0, CPU).known


def test_a_generator_of_other_weights_finds_nothing(folder: RunFolder, computed: list[str]) -> None:
    """Another commit of stage 1, as --codes.select best may take: also one that a driver thought dead has just exported."""
    before = stage.factorize(folder, 0, CPU).sample
    kept = set(folder.store.list(f"{FOLDER}/"))
    old = folder.commits("pairs").records()[-1]
    folder.store.write("export/generator.safetensors", committed_weights(folder, "pairs", old))
    after = stage.factorize(folder, 0, CPU)
    assert computed == ["grams", "factors"] * 2 and not after.known and not torch.equal(after.sample.grams, before.grams)
    assert len(set(folder.store.list(f"{FOLDER}/")) - kept) == 2


def test_settings_that_shape_it_are_of_another_key(folder: RunFolder, computed: list[str]) -> None:
    stage.factorize(folder, 0, CPU)
    run = folder.run
    for change, expected in (
        ({"grey": True}, ["grams", "factors"]),
        ({"lam": 0.2}, ["factors"]),
        ({"tolerance": 1e-3}, ["factors"]),
        ({"max_iterations": 2}, ["factors"]),
        ({"method": "nullspace", "energy": 0.5, "epsilon": 0.2, "source": "sample"}, []),
        ({"chunk": 5}, []),
        ({"space": "w+"}, ["grams"] * 6 + ["factors"]),  # of each layer; the factors are none
        ({"space": "w+", "method": "nullspace", "lam": 0.3}, ["factors"]),
        ({"space": "w+", "method": "nullspace", "lam": 0.3, "chunk": 5}, []),
    ):
        computed.clear()
        stage.factorize(with_settings(folder, **change), 0, CPU)
        assert computed == expected, change
    kept = folder.store.list(f"{FOLDER}/")
    for other in (
        dataclasses.replace(run, seed=run.seed + 1),
        dataclasses.replace(run, network=dataclasses.replace(run.network, noise=not run.network.noise)),
        dataclasses.replace(run, resolution=32),
    ):
        assert keys_of(folder, other, 0, CPU).isdisjoint(kept)
    assert keys_of(folder, run, 0, CPU) <= kept.keys()
    assert keys_of(folder, run, 0, torch.device("cuda", 1)).isdisjoint(kept)
    assert keys_of(folder, run, 1, CPU).isdisjoint(kept)
    assert keys_of(folder, run, 0, CPU, torch.bfloat16).isdisjoint(kept)


def keys_of(folder: RunFolder, run: Run, index: int, device: torch.device, dtype: torch.dtype = torch.float32) -> set[str]:
    """Paths that are asked for: what would be computed for them is not."""
    asked: set[str] = set()

    class Asking(type(folder.store)):  # type: ignore[misc]
        def read(self, path: str) -> bytes:
            asked.add(path)
            raise FileNotFoundError(path)

        def write(self, path: str, data: bytes) -> None:
            """Nothing."""

    weights = folder.store.read("export/generator.safetensors")
    kept = Kept(RunFolder(Asking(folder.uri), run, folder.data), index, weights, dtype, device)
    grams = kept.grams(lambda: torch.eye(4, dtype=torch.float64).expand(2, 4, 4))
    kept.sample(grams, lambda: factorize_latent(grams, run.codes))
    assert kept.made == len(asked) == 2
    return asked


def test_no_other_setting_shapes_it(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field of `Codes` that is read while a latent is computed and is not in the keys would let stale work count."""
    read: set[str] = set()

    class Watched(Codes):
        def __getattribute__(self, name: str) -> Any:
            if name in Codes.__dataclass_fields__:
                read.add(name)
            return super().__getattribute__(name)

    config = Watched(**dataclasses.asdict(folder.run.codes))
    watched = dataclasses.replace(folder, run=dataclasses.replace(folder.run, codes=config))
    monkeypatch.setattr("mvgan.train.kept.to_dict", lambda config: dataclasses.asdict(folder.run)["codes"])
    stage.factorize(watched, 0, CPU)
    assert read == {*GRAM_SETTINGS, *FACTOR_SETTINGS, "chunk"}


KILLED = """
import os, signal, sys
import torch
import mvgan.train.codes as stage
from mvgan.storage.run import read_run
torch.set_num_threads(1)
compute, done = stage.{function}, []
def killed(*args, **options):
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(0)
    return compute(*args, **options)
stage.{function} = killed
for index in range(6):
    stage.factorize(read_run(sys.argv[1]), index, torch.device("cpu"))
"""


@pytest.mark.parametrize(("function", "left"), [("pair_grams", ["grams", "factors"]), ("factorize_latent", ["factors"])])
def test_killed_in_the_fourth_of_six_latents(folder: RunFolder, computed: list[str], function: str, left: list[str]) -> None:
    """kill -9 of a process: the same work again computes what is missing, and gives the bits of a run that nobody killed."""
    done = subprocess.run([sys.executable, "-c", KILLED.format(function=function), folder.uri], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    found = [stage.factorize(folder, index, CPU) for index in range(6)]
    assert computed == [*left, *["grams", "factors"] * 2]
    assert [latent.known for latent in found] == [True] * 3 + [False] * 3
    forget(folder)
    assert folder.store.list(f"{FOLDER}/") == {}
    assert [bits(stage.factorize(folder, index, CPU).sample) for index in range(6)] == [bits(latent.sample) for latent in found]


def test_only_what_is_kept_is_forgotten(folder: RunFolder) -> None:
    before = folder.store.list()
    stage.factorize(folder, 0, CPU)
    folder.store.write("codes/kept-by-me", b"the user's own")
    forget(folder)
    assert folder.store.list().keys() == {*before, "codes/kept-by-me"}


def test_on_s3(folder: RunFolder, computed: list[str], s3: str) -> None:
    store = open_store(f"{s3}/run")
    for path in ("run.json", "export/generator.safetensors"):
        store.write(path, folder.store.read(path))
    there = RunFolder(store, folder.run, folder.data)
    first = stage.factorize(there, 0, CPU)
    assert bits(stage.factorize(there, 0, CPU).sample) == bits(first.sample) == bits(stage.factorize(folder, 0, CPU).sample)
    assert computed == ["grams", "factors"] * 2
    forget(there)
    assert store.list(f"{FOLDER}/") == {}
