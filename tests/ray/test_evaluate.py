"""Evaluation on Ray: the bits of one process, and nothing computed twice."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mvgan.config import Resources
from mvgan.data.shards import ShardSet
from mvgan.distributed import evaluate as on_ray
from mvgan.evaluation import parts as cut
from mvgan.evaluation.answer import answers
from mvgan.evaluation.parts import real_parts
from mvgan.evaluation.question import ask
from mvgan.evaluation.subject import subjects
from mvgan.storage.run import RunFolder, read_run
from tests.unit.conftest import tiny_run
from tests.unit.evaluation.test_subject import one_by_one


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
    count = len(real[0]) + len(found) * 5
    assert len(real[0]) > 1 and len(found) > 1
    alone = read_run(shutil.copytree(tiny_run.uri, tmp_path / "alone"))
    expected = list(answers(alone, shards, question, real, found, one_by_one))

    run_tasks: Callable[..., Iterator[Any]] = on_ray.run_tasks

    def backwards(function: Any, arguments: list[Any], *others: Any) -> Iterator[Any]:
        return iter(list(run_tasks(function, arguments[::-1], *others))[::-1])

    for name, tasks in (("forward", run_tasks), ("backwards", backwards)):
        monkeypatch.setattr(on_ray, "run_tasks", tasks)
        folder = read_run(shutil.copytree(tiny_run.uri, tmp_path / name))
        capsys.readouterr()
        assert list(on_ray.evaluate(folder, shards, question, real, found, Resources())) == expected
        assert told_parts(capsys) == (count, 0)

    damaged, *_ = Path(folder.uri, "evaluation/features").iterdir()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert list(on_ray.evaluate(folder, shards, question, real, found, Resources())) == expected
    assert f"{damaged.name} is damaged, and computed again" in (said := capsys.readouterr().out)
    assert "parts of" not in said and "waits for room" not in said
    monkeypatch.setattr(cut, "figures_of", lambda *_: pytest.fail("computed again"))
    assert list(answers(folder, shards, question, real, found, one_by_one)) == expected
    assert told_parts(capsys) == (count, count)


def told_parts(capsys: pytest.CaptureFixture[str]) -> tuple[int, int]:
    """Parts in all, and those that were known."""
    told = re.findall(r"(\d+) parts, (\d+) of them known", capsys.readouterr().out)
    return sum(int(parts) for parts, _ in told), sum(int(known) for _, known in told)
