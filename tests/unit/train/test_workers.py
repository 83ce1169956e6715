"""Two gloo workers equal one process on the same batches, after several full iterations of either stage."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mvgan.train.exposed import EXPOSED


SCRIPT = Path(__file__).with_name("two_workers.py")
EPS = 1e-3


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("two_workers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


two_workers = load_script()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two worker processes wrote, for all cases."""
    folder = tmp_path_factory.mktemp("workers")
    root = str(SCRIPT.parents[3])
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPT)]
    workers = [subprocess.Popen([*command, str(rank), "2", str(folder), str(EPS)], env=environment) for rank in range(2)]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return folder


def tensors(state: Any) -> dict[str, torch.Tensor]:
    """Floating-point tensors of one network's state by name, optimizers aside."""
    found = {}
    for name, value in state.items():
        if isinstance(value, dict) and "optimizer" not in name:
            found |= {f"{name}.{key}": tensor for key, tensor in tensors(value).items()}
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            found[name] = value.double()
    return found


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5


@pytest.mark.parametrize("case", two_workers.CASES)
def test_two_workers_equal_one(folder: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: one process. All phases of both stages run several times, lazy ones included; three shards lie unevenly on two workers.

    Bounds, in L2 norm, for each network: 1e-5 of the weights and 1e-3 of what training changed in them for stage 1, in
    float32; 1e-9 for stage 3, in float64. Gradients off by a factor (a sum where a mean is due, a missing weight of
    uneven shards) would change the latter by tens of percent.
    """
    found, logged, waited = torch.load(folder / f"{case} 0.pt", weights_only=True)
    other, other_logged, _ = torch.load(folder / f"{case} 1.pt", weights_only=True)
    wanted, wanted_logged, unwaited = two_workers.train(case, 0, 1, EPS)
    monkeypatch.setattr(two_workers, "STEPS", 0)
    start, _, _ = two_workers.train(case, 0, 1, EPS)
    of_weights, of_change = (1e-5, 1e-3) if case.startswith("pairs") else (1e-9, 1e-9)
    for name in wanted:
        if "optimizer" in name:
            continue
        single, double, second, initial = (tensors({name: s[name]}) for s in (wanted, found, other, start))
        assert all(torch.equal(double[key], second[key]) for key in double), "the workers differ from each other"
        size = sum(float(tensor.square().sum()) for tensor in single.values()) ** 0.5
        assert distance(single, initial) > 1e-4 * size, f"{name} was not trained"
        assert distance(single, double) < of_weights * size, name
        assert distance(single, double) < of_change * distance(single, initial), name
    assert logged == other_logged
    assert 0 < waited[EXPOSED] < 60 and EXPOSED not in unwaited  # nothing is waited for by one process
    for one, two in zip(wanted_logged, logged, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
