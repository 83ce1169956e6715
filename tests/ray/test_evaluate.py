"""Evaluation on Ray: the bits of one process, and nothing computed twice."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvgan.config import Resources
from mvgan.data.shards import ShardSet
from mvgan.distributed import evaluate as on_ray
from mvgan.evaluation import parts as cut
from mvgan.evaluation.parts import figures_of, generated_parts, real_parts
from mvgan.evaluation.question import ask
from mvgan.evaluation.result import join, measure
from mvgan.evaluation.subject import subjects
from mvgan.storage.run import RunFolder, read_run
from tests.unit.conftest import tiny_run


__all__ = ["tiny_run"]  # a fixture


@pytest.mark.usefixtures("ray_session")
def test_tasks_in_any_order_give_the_bits_of_one_process(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts of 5 clips, of all commits; tasks are begun in the order of the parts, and backwards."""
    torch.set_num_threads(1)
    monkeypatch.setitem(cut.TOGETHER, "video", 5)
    shards, question = ShardSet.open(tiny_run.data), ask(tiny_run.run, "clips", "all-clips", 4, 23, None, None)
    real, found = real_parts(tiny_run, shards, question), subjects(tiny_run, "video", "all")
    assert len(real[0]) > 1 and len(found) > 1
    (theirs,) = ([figures_of(part, torch.device("cpu")) for part in parts] for parts in real)
    expected, count = [], len(real[0])
    for subject in found:
        (parts,) = generated_parts(subject, question)
        assert len(parts) == 5
        count += len(parts)
        ours = join([figures_of(part, torch.device("cpu")) for part in parts])
        expected.append(measure(question, subject, tiny_run, shards, [join(theirs)], [ours]))

    run_tasks: Callable[..., list[Any]] = on_ray.run_tasks

    def backwards(function: Any, arguments: list[Any], *others: Any) -> list[Any]:
        return run_tasks(function, arguments[::-1], *others)[::-1]

    for name, tasks in (("forward", run_tasks), ("backwards", backwards)):
        monkeypatch.setattr(on_ray, "run_tasks", tasks)
        folder = read_run(shutil.copytree(tiny_run.uri, tmp_path / name))
        assert list(on_ray.evaluate(folder, shards, question, real, found, Resources())) == expected

    monkeypatch.setattr(on_ray, "run_tasks", lambda *_: pytest.fail("computed again"))
    capsys.readouterr()
    assert list(on_ray.evaluate(folder, shards, question, real, found, Resources())) == expected
    told = re.findall(r"(\d+) parts, (\d+) of them known", capsys.readouterr().out)
    assert sum(int(parts) for parts, _ in told) == sum(int(known) for _, known in told) == count
