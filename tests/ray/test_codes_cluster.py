"""Stage 2 on three nodes, one of which is lost midway: the bits of one process, and nothing computed twice but what was lost."""

import dataclasses
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import mvgan.distributed.codes as on_ray
import mvgan.train.codes as stage
from mvgan.config import Resources
from mvgan.storage.commit import Superseded
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.kept import FOLDER
from tests.kill_matrix import LAST_S, Machines, machines
from tests.unit import conftest
from tests.unit.conftest import tiny_run


__all__ = ["tiny_run"]  # a fixture

LATENTS = 64
HELD = 24
"""The latent whose first computation ends only with the node that it is on."""
COMPUTES = ("pair_grams", "factorize_latent")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    """A head without CPUs and three nodes of one CPU."""
    with machines(num_nodes=3, cpus=1) as started:
        yield started


@pytest.fixture
def folder(tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run of so many latents whose stage 1 is done; its tasks leave marks."""
    monkeypatch.setattr(on_ray, "_factorize", watched)
    (tmp_path / "marks").mkdir()
    return run_at(tmp_path / "run", tiny_run)


def run_at(uri: Path, tiny_run: RunFolder) -> RunFolder:
    shutil.copytree(tiny_run.uri, uri, ignore=shutil.ignore_patterns("codes", "video", "codes.*", "latent.*"))
    return open_run(str(uri), dataclasses.replace(tiny_run.run, latents=LATENTS), tiny_run.data)


def watched(run_uri: str, index: int) -> stage.Factorized:
    """The task of a latent, which leaves a mark before and after it computes something: `begun-<what>-<index>-<node>-<nonce>`."""
    import ray

    from mvgan.distributed.codes import _factorize

    folder, node = Path(run_uri).parent / "marks", ray.get_runtime_context().get_node_id()

    def marking(what: str, compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            name = f"{what}-{index}-{node}-{secrets.token_hex(4)}"
            held = what == "pair_grams" and index == HELD and not list(folder.glob(f"begun-{what}-{index}-*"))
            (folder / f"begun-{name}").touch()
            while held:
                time.sleep(1)
            found = compute(*args, **options)
            (folder / f"done-{name}").touch()
            return found

        return call

    with pytest.MonkeyPatch.context() as patch:
        for what in COMPUTES:
            patch.setattr(stage, what, marking(what, getattr(stage, what)))
        return _factorize(run_uri, index)


def marks(folder: RunFolder, kind: str) -> list[tuple[str, int, str]]:
    """What was computed of which latent on which node, in the order of time."""
    found = sorted(Path(folder.uri).parent.glob(f"marks/{kind}-*"), key=lambda path: path.stat().st_mtime_ns)
    parts = [path.name.split("-") for path in found]
    return [(what, int(index), node) for _, what, index, node, _ in parts]


def times(folder: RunFolder) -> dict[tuple[str, int], int]:
    """How often each thing was begun."""
    return dict(Counter((what, index) for what, index, _ in marks(folder, "begun")))


def committed(folder: RunFolder) -> dict[str, bytes]:
    """The files of stage 2's commit."""
    commit = folder.require("codes")
    return {name: folder.commits("codes").read(commit, name) for name in commit.files}


def kept(folder: RunFolder) -> dict[str, bytes]:
    return {path: folder.store.read(path) for path in folder.store.list(f"{FOLDER}/")}


def test_a_node_that_dies_costs_only_what_it_was_computing(
    cluster: Machines, folder: RunFolder, tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    alone = run_at(tmp_path / "alone", tiny_run)
    conftest.find_codes(alone)
    monkeypatch.setattr(on_ray, "forget", lambda store: None)  # to compare it
    with ThreadPoolExecutor(1) as driver:
        done = driver.submit(on_ray.find_codes, folder, Resources())
        lost = lose_the_node_of_the_held(cluster, folder, done)
        done.result(LAST_S)
    assert committed(folder) == committed(alone)
    assert kept(folder) == kept(alone) and len(kept(folder)) == 2 * LATENTS
    once = {(what, index): 1 for what in COMPUTES for index in range(LATENTS)}
    assert times(folder) == once | {("pair_grams", HELD): 2}
    ended = [(index, node) for what, index, node in marks(folder, "done") if what == "factorize_latent"]
    assert lost in {node for _, node in ended} and len({node for _, node in ended}) == 3, "each node had done some"
    indices = [index for index, _ in ended]
    assert indices.index(HELD) > indices.index(HELD + 1), "they came in order by themselves"


def lose_the_node_of_the_held(cluster: Machines, folder: RunFolder, driver: "Future[None]") -> str:
    """Kill the node on which it is computed once half of all latents are there; returns the id of the node."""
    deadline = time.monotonic() + LAST_S
    while len(marks(folder, "done")) < len(COMPUTES) * LATENTS // 2:
        assert time.monotonic() < deadline and not driver.done(), driver.exception(0)
        time.sleep(0.01)
    (lost,) = (node for what, index, node in marks(folder, "begun") if index == HELD)
    cluster.lose(next(node for node in cluster.nodes if node.node_id == lost))
    return lost


@pytest.mark.usefixtures("cluster")
def test_the_same_command_computes_only_what_is_missing(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the latents are kept, of which one is damaged; the driver that kept them was only thought dead."""
    late, cpu = folder.commits("codes").claim({"test": "thought dead"}), torch.device("cpu")
    for index in range(LATENTS // 2):
        stage.factorize(folder, index, cpu)
    before = kept(folder)
    damaged = next(path for path in before if path.endswith(".factors"))
    folder.store.write(damaged, before[damaged][:-1])
    on_ray.find_codes(folder, Resources())
    said = capsys.readouterr().out
    assert f"codes: {folder.uri}/{damaged} is damaged, and computed again" in said
    assert f"codes: {LATENTS // 2 - 1} of {LATENTS} latents were known from before" in said
    missing = {(what, index): 1 for what in COMPUTES for index in range(LATENTS // 2, LATENTS)}
    assert times(folder) == missing | {("factorize_latent", 0): 1}
    assert kept(folder) == {}
    result = committed(folder)
    stage.factorize(folder, 0, cpu)  # the one thought dead goes on
    assert kept(folder).items() <= before.items() and len(kept(folder)) == 2
    with pytest.raises(Superseded):
        folder.commits("codes").write(LATENTS, late, {"codes.json": b"{}"}, {"complete": True})
    on_ray.find_codes(folder, Resources())
    assert kept(folder) == {} and committed(folder) == result
