"""Evaluation on Ray: the bits of one process, and nothing computed twice."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvgan import evaluation
from mvgan.config import Resources
from mvgan.data.shards import ShardSet
from mvgan.distributed import evaluate as on_ray
from mvgan.evaluation import Question, features_of, measure, parts_of
from mvgan.storage.run import RunFolder, read_run
from tests.unit.conftest import tiny_run


__all__ = ["tiny_run"]  # a fixture


@pytest.mark.usefixtures("ray_session")
def test_tasks_in_any_order_give_the_bits_of_one_process(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts of 5 clips; tasks are begun in the order of the parts, and backwards."""
    torch.set_num_threads(1)
    monkeypatch.setattr(evaluation, "CLIPS_PER_TASK", 5)
    question, shards = Question("all-clips", 4, 23), ShardSet.open(tiny_run.data)
    real, generated = parts_of(tiny_run, shards, question)
    assert len(generated[0]) == 5 and len(real[0]) > 1
    whole = [np.concatenate([features_of(part, torch.device("cpu")) for part in parts[0]]) for parts in (real, generated)]
    expected = measure(question, tiny_run, shards, [whole[0]], [whole[1]])

    run_tasks: Callable[..., list[Any]] = on_ray.run_tasks

    def backwards(function: Any, arguments: list[Any], *others: Any) -> list[Any]:
        return run_tasks(function, arguments[::-1], *others)[::-1]

    for name, tasks in (("forward", run_tasks), ("backwards", backwards)):
        monkeypatch.setattr(on_ray, "run_tasks", tasks)
        folder = read_run(shutil.copytree(tiny_run.uri, tmp_path / name))
        assert on_ray.evaluate(folder, tiny_run.data, question, Resources()) == expected

    monkeypatch.setattr(on_ray, "run_tasks", lambda *_: pytest.fail("computed again"))
    capsys.readouterr()
    assert on_ray.evaluate(folder, tiny_run.data, question, Resources()) == expected
    count = len(real[0]) + len(generated[0])
    assert f"evaluate: {count} parts of up to 5 clips, {count} of them known" in capsys.readouterr().out
