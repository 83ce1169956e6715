"""The motion explorer in real Chromium, by mouse and keyboard, against the frames of `Generator`."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from mvgan.sample import Generator
from mvgan.storage.run import RunFolder
from tests.browser.browser import Browser


FORMER = ".pairs tbody tr:nth-child(2) canvas[data-row='0']"
"""Of the second seed, which is 1."""
LATTER_CHANGE = ".pairs tbody tr:nth-child(2) canvas[data-row='3']"

DRAWN = "[...document.querySelectorAll('canvas')].every((canvas) => canvas.dataset.drawn === canvas.dataset.wanted && canvas.dataset.drawn)"


@pytest.fixture
def explorer(browser: Browser, pages: dict[str, Path]) -> Browser:
    browser.open(pages["explorer"])
    browser.until(DRAWN)
    return browser


def move(browser: Browser, place: int) -> None:
    """Move the slider along the code as a hand does: by its keys."""
    slider = browser.find("#alpha")
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * place)
    browser.until(DRAWN)


def pixels(browser: Browser, selector: str) -> np.ndarray:
    """What a canvas holds, uint8 [3, h, w]."""
    canvas = f'document.querySelector("{selector}")'
    width, height = browser.ask(f"[{canvas}.width, {canvas}.height]")
    values = browser.ask(f"Array.from({canvas}.getContext('2d').getImageData(0, 0, {width}, {height}).data)")
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3].transpose(2, 0, 1)


def test_the_slider_changes_the_picture(explorer: Browser) -> None:
    """On the screen itself, and the words beside it."""
    move(explorer, 0)
    first, words = explorer.picture(FORMER), explorer.find("#alpha-words").text
    move(explorer, 8)
    last = explorer.picture(FORMER)
    assert first.shape == last.shape and (first != last).any()
    assert words.startswith("α = −4 steps (−") and explorer.find("#alpha-words").text.startswith("α = +4 steps (+")
    assert explorer.find("#alpha").get_attribute("aria-valuetext") == "+4 steps"
    assert explorer.find(FORMER).get_attribute("aria-label") == "seed 1, former frame, α = +4 steps"


@pytest.mark.parametrize("side", [0, 1])
def test_frames_are_those_of_the_generator(explorer: Browser, tiny_run: RunFolder, side: int) -> None:
    """Against `Generator.sweep` of seed 1 along the second code, at -4, 0 and 3 steps; JPEG at its best quantizer errs by a few levels."""
    explorer.find(f"input[data-side='{side}'][value='1']").click()
    generator = Generator.load(tiny_run.uri)
    pairs = np.concatenate(list(generator.sweep(1, (side, 1), [-4.0, 0.0, 3.0], 0.7))).astype(float)
    for pair, place in zip(pairs, (0, 4, 7), strict=True):
        move(explorer, place)
        for row, frame in enumerate(pair):
            shown = pixels(explorer, f".pairs tbody tr:nth-child(2) canvas[data-row='{row}']")
            assert np.abs(shown - frame).mean() < 4, (place, row)
        change = pixels(explorer, LATTER_CHANGE)
        expected = (6 * np.abs(pair[1] - pairs[1, 1]).mean(0)).clip(0, 255)
        assert np.abs(change - expected).mean() < 6
        said = explorer.find(".pairs tbody tr:nth-child(2) td:last-child .change").text
        assert float(said) == pytest.approx(1000 * np.square((pair[1] - pairs[1, 1]) / 127.5).mean(), abs=0.006)


def test_codes_are_chosen_by_keyboard(explorer: Browser) -> None:
    """The heading names the code, and the frame that it edits is marked."""
    assert explorer.find("#shown").text == "Backward code 1: edits the former frame"
    chosen = explorer.find("input[name=code]:checked")
    chosen.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    explorer.until(DRAWN)
    assert explorer.find("#shown").text == "Forward code 1: edits the latter frame"
    assert explorer.ask("[...document.querySelectorAll('.pairs th.edited')].map((head) => head.dataset.side)") == ["1", "1"]


def test_all_seeds_and_codes_are_drawn(explorer: Browser) -> None:
    """3 seeds with 4 pictures each, 2 codes each way, and the sheets of all."""
    assert explorer.ask("document.querySelectorAll('.pairs canvas').length") == 12
    assert explorer.ask("document.querySelectorAll('.tile canvas').length") == 4
    move(explorer, 8)
    drawn = [pixels(explorer, f".pairs tbody tr:nth-child({row}) canvas[data-row='0']") for row in (1, 2, 3)]
    assert all((one != other).any() for one, other in itertools.pairwise(drawn))
    data = json.loads(explorer.ask("document.getElementById('explorer-data').textContent"))
    assert len(data["sheets"]) == 3 * 2 * 2 and data["alphas"][::4] == [-4, 0, 4]


def test_swing_and_zero(explorer: Browser) -> None:
    explorer.find("#swing").click()
    for _ in range(2):
        place = explorer.ask("document.getElementById('alpha').value")
        explorer.until(f"document.getElementById('alpha').value !== '{place}'")
    explorer.find("#zero").click()
    explorer.until(DRAWN)
    assert explorer.find("#alpha-words").text.startswith("α = 0 steps")
    assert explorer.find("#swing").get_attribute("aria-pressed") == "false"
    assert not pixels(explorer, LATTER_CHANGE).any()  # without an edit nothing changes


def test_play_pause_and_scrub(explorer: Browser) -> None:
    """One video holds all, so that they are in step; its frame is the slider's."""
    video = "document.querySelector('.board video')"
    play, scrub = explorer.find("#play"), explorer.find("#scrub")
    said = "document.getElementById('play').textContent"  # follows by an event, so a little later
    explorer.until(f"!{video}.paused && {said} === 'Pause'")
    play.click()
    explorer.until(f"{video}.paused && {said} === 'Play'")
    shots = []
    for frame in (0, 15):
        scrub.send_keys(Keys.END, Keys.HOME, *[Keys.ARROW_RIGHT] * frame)  # it may have been paused at 0, where HOME changes nothing
        explorer.until(f"{video}.currentTime.toFixed(3) === (({frame} + 0.5) / 12.5).toFixed(3) && !{video}.seeking")
        assert explorer.find("#scrub-words").text == f"frame {frame + 1} of 16"
        shots.append(explorer.picture(".screen"))
    assert np.abs(shots[0].astype(int) - shots[1]).max() > 8
    play.click()
    explorer.until(f"!{video}.paused && {video}.currentTime < 1")


def test_the_table_shows_contents_with_motions(explorer: Browser, tiny_run: RunFolder) -> None:
    """Against `Generator.stream` at its tenth frame: 3 rows of contents, 2 columns of motions; H.264 errs by a few levels."""
    video = "document.querySelector('.board video')"
    explorer.find("#play").click()
    explorer.find("#scrub").send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 9)
    explorer.until(f"{video}.paused && {video}.currentTime.toFixed(3) === (9.5 / 12.5).toFixed(3) && !{video}.seeking")
    canvas = (
        f"((c) => (c.width = {video}.videoWidth, c.height = {video}.videoHeight, c.getContext('2d').drawImage({video}, 0, 0), "
        "[c.height, c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]))(document.createElement('canvas'))"
    )
    height, width, values = explorer.ask(canvas)
    shown = np.array(values, np.uint8).reshape(height, width, 4)[..., :3].transpose(2, 0, 1)
    assert (height, width) == (3 * 128, 2 * 128)
    generator = Generator.load(tiny_run.uri)
    for row, seed in enumerate((0, 1, 2)):
        for column, motion in enumerate((0, 5)):
            frames = np.concatenate(list(generator.stream(seed, 16, 0.7, motion_seed=motion)))
            cell = shown[:, 128 * row : 128 * row + 128, 128 * column : 128 * column + 128].reshape(3, 16, 8, 16, 8).mean((2, 4))
            assert np.abs(cell - frames[9]).mean() < 5, (seed, motion)


def test_a_row_or_a_column_alone(explorer: Browser) -> None:
    """The second of 3 contents, then the first of 2 motions, then all again."""
    board = "document.querySelector('.screen').getBoundingClientRect()"
    spot = "document.querySelector('.spot')"
    shape = f"((a, b) => [(b.top - a.top) / a.height, b.height / a.height, (b.left - a.left) / a.width, b.width / a.width])({board}, \
        {spot}.getBoundingClientRect())"
    explorer.find(".lefts button:nth-child(2)").click()
    assert explorer.ask(shape) == pytest.approx([1 / 3, 1 / 3, 0, 1], abs=0.01)
    column = explorer.find(".tops button:nth-child(1)")
    column.click()
    assert explorer.ask(shape) == pytest.approx([0, 1, 0, 1 / 2], abs=0.01)
    assert explorer.ask("document.querySelectorAll('.board [aria-pressed=true]').length") == 1
    column.click()
    assert explorer.ask(f"{spot}.hidden")


def test_everything_to_use_has_a_name(explorer: Browser) -> None:
    """By the browser's own accessibility tree: no control without a name."""
    nodes = explorer.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = [node for node in nodes if node.get("role", {}).get("value") in ("button", "slider", "radio", "link", "image", "Video")]
    assert len(used) > 20
    assert not [node["role"]["value"] for node in used if not node.get("name", {}).get("value")]
