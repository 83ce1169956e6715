"""The table of drift in a report: its figures against those of the walks."""

import re

import pytest

from mvgan.config import InputError
from mvgan.motion.walk import Hold
from mvgan.report.drift import VIDEOS, drift_table
from mvgan.sample import Generator
from mvgan.storage.run import RunFolder


def cells(html: str) -> list[list[str]]:
    """The rows of a table."""
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)][1:]


def test_both_walks_stand_side_by_side(tiny_run: RunFolder) -> None:
    """Against the distances, sorted and counted by hand."""
    generator = Generator.load(tiny_run.uri)
    page = drift_table(generator, 40)
    assert "paper&#x27;s recursion" in page and "held (generate --hold)" in page and "99 of 100" in page
    rows = cells(page)
    most = generator.distribution.quantile(0.99)
    for column, hold in ((1, False), (2, True)):
        distances = sorted(generator.drift(range(VIDEOS), 40, hold=hold).flatten().tolist())
        early = sorted(generator.drift(range(VIDEOS), generator.run.video.num_frames, hold=hold).flatten().tolist())
        beyond = sum(distance > most for distance in distances) / len(distances)
        expected = [early[(len(early) - 1) // 2], distances[(len(distances) - 1) // 2], distances[-1]]
        assert [float(row[column]) for row in rows[:3]] == pytest.approx(expected, abs=6e-4)
        assert float(rows[3][column].rstrip("%")) == pytest.approx(100 * beyond, abs=0.06)


def test_a_generator_that_cannot_be_held_is_told(tiny_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is made all the same, with the figures of the plain walk."""

    def refused(*given: object) -> Hold:
        raise InputError("it walks one way only")

    monkeypatch.setattr("mvgan.sample.hold_of", refused)
    page = drift_table(Generator.load(tiny_run.uri), 20)
    assert "held (generate --hold): it walks one way only" in page and len(cells(page)[0]) == 2
