"""A batch of videos on Ray: the files of one process, and nothing made twice."""

import re
from pathlib import Path

import pytest
import torch

from mvgan.batch import Batch, begin, exported_sha256, finish, groups_of, make_group
from mvgan.config import Resources
from mvgan.distributed.generate import generate
from mvgan.storage.run import RunFolder
from tests.unit.conftest import tiny_run


__all__ = ["tiny_run"]  # a fixture


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("ray_session")
def test_tasks_make_the_files_of_one_process(tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the bit, and again when one has gone; then that one alone is newer."""
    torch.set_num_threads(1)
    batch = Batch(exported_sha256(tiny_run.uri), 3, 1.0, "latter", 12.5, "parquet")
    groups = groups_of(range(40), None)
    alone, out = str(tmp_path / "alone"), str(tmp_path / "ray")
    begin(alone, batch, groups)
    made = [make_group(tiny_run.uri, alone, batch, group, torch.device("cpu")) for group in groups]
    expected = finish(alone, batch, groups, [entry for entries in made for entry in entries])

    assert begin(out, batch, groups) is None
    assert generate(tiny_run.uri, out, batch, groups, Resources()) == expected
    assert files(Path(out)) == files(Path(alone)) and len(files(Path(out))) == 5
    assert re.search(r"generate: 3/3 groups of videos, \d+ s, ETA 0 s", capsys.readouterr().out)
    (lost, *others) = sorted(Path(out, "videos").iterdir())
    before = [path.stat().st_mtime_ns for path in others]
    lost.unlink()
    assert begin(out, batch, groups) is None
    assert generate(tiny_run.uri, out, batch, groups, Resources()) == expected
    assert files(Path(out)) == files(Path(alone)) and [path.stat().st_mtime_ns for path in others] == before
    assert begin(out, batch, groups) == expected
