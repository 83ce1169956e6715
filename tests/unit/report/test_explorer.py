"""The motion explorer: its plan, its sheets against the generator, its weight, and the page by Python's HTML parser."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from jobs import explore
from mvgan.config import InputError
from mvgan.media import upscale
from mvgan.presets import ucf101
from mvgan.report import markup, sprites
from mvgan.report.explorer import explorer_html
from mvgan.report.pictures import AMPLIFY
from mvgan.sample import Generator
from mvgan.storage.run import RunFolder
from mvgan.storage.uri import open_store
from tests.unit.report.test_page import Reader


SEEDS, MOTIONS = (3, 0), (0, 1, 7)


@pytest.fixture(scope="module")
def generator(tiny_run: RunFolder) -> Generator:
    return Generator.load(tiny_run.uri)


def asked(**changes: object) -> sprites.Asked:
    return dataclasses.replace(sprites.Asked(SEEDS, MOTIONS, 6, 0.7), **changes)


def decoded(jpeg: bytes) -> np.ndarray:
    with av.open(io.BytesIO(jpeg)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").transpose(2, 0, 1)


def test_a_small_run_is_shown_at_its_own_size(generator: Generator) -> None:
    plan = sprites.plan(generator.run, asked())
    assert (plan.size, plan.movie_size, plan.num_codes) == (16, 128, 2)
    assert plan.alphas == tuple(np.linspace(-4, 4, 17))  # clips have 4 frames
    assert sprites.plan(generator.run, asked(alpha=10.0, num_steps=5, num_codes=1)).alphas == (-10, -5, 0, 5, 10)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 1024])
@pytest.mark.parametrize("num_codes", [1, 10, 30, 50])
def test_the_plan_keeps_to_its_bytes(resolution: int, num_codes: int) -> None:
    """Counted anew: pixels of all sheets and of the video by what each is expected to take."""
    run = dataclasses.replace(ucf101(), resolution=resolution, num_codes=num_codes)
    plan = sprites.plan(run, sprites.Asked((0, 1, 2, 3), (0, 1, 2, 3), 64, 0.7))
    pixels = 4 * 2 * num_codes * len(plan.alphas) * 4 * plan.size**2
    assert pixels * sprites.BYTES_PER_PIXEL <= sprites.SHEETS_BYTES
    assert 16 * 64 * plan.movie_size**2 * sprites.MOVIE_BYTES_PER_PIXEL <= sprites.MOVIE_BYTES
    assert len(plan.alphas) % 2 == 1 and plan.alphas[len(plan.alphas) // 2] == 0
    assert plan.size <= resolution


def test_the_parts_leave_room_for_words() -> None:
    """Base64 makes 4 characters of 3 bytes."""
    assert (sprites.SHEETS_BYTES + sprites.MOVIE_BYTES) * 4 / 3 + 500_000 < sprites.MAX_PAGE_BYTES


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_codes": 0}, "--codes is 0; this run has 1 to 2 codes each way"),
        ({"num_codes": 3}, "--codes is 3"),
        ({"seeds": tuple(range(4000))}, r"4000 seeds with 2 codes each way.* 15 MB even at 16 px; give at most \d+ --seeds$"),
        ({"seeds": tuple(range(1000)), "num_steps": 101}, r"give at most \d+ --seeds$"),
        ({"num_frames": 100_000}, "6 videos of 100000 frames do not fit into a page of 15 MB even at 32 px; give fewer --frames"),
    ],
)
def test_what_cannot_fit_is_told(generator: Generator, changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        sprites.plan(generator.run, asked(**changes))


def test_the_advice_fits(generator: Generator) -> None:
    """What the line says would fit does, and one more does not."""
    with pytest.raises(InputError) as told:
        sprites.plan(generator.run, asked(seeds=tuple(range(4000)), motions=(0,), num_frames=1))
    most = int(re.findall(r"at most (\d+) --seeds", str(told.value))[0])
    assert sprites._fitting(most, 2, 16, None) == (16, 9)
    with pytest.raises(InputError):
        sprites._fitting(most + 1, 2, 16, None)


def test_sheets_show_the_sweep(generator: Generator) -> None:
    """Against `Generator.sweep`, exactly, and changes against the frames by hand."""
    plan = sprites.plan(generator.run, asked(num_steps=5))
    sheets = list(sprites.draw_sheets(generator, plan))
    order = [(sheet.seed, sheet.side, sheet.code) for sheet in sheets]
    assert order == [(seed, side, code) for seed in SEEDS for side in (0, 1) for code in (0, 1)]
    assert len(sheets) == plan.num_sheets
    sheet = sheets[6]  # seed 0, forward code 1
    pairs = np.concatenate(list(generator.sweep(0, (1, 0), [-4, -2, 0, 2, 4], 0.7)))
    assert (sheet.pictures[:2] == pairs.swapaxes(0, 1)).all()
    apart = np.abs(pairs.astype(float) - pairs[2])
    shown = (AMPLIFY * apart.mean(2)).clip(0, 255)
    assert np.abs(sheet.pictures[2:] - shown.swapaxes(0, 1)[:, :, None]).max() <= 0.5
    np.testing.assert_allclose(sheet.changes, np.square(apart / 127.5).mean((2, 3, 4)).T, rtol=1e-5)
    assert sheet.changes[1, 0] > 0 and not sheet.changes[:, 2].any()


def test_videos_are_those_of_the_seeds(generator: Generator) -> None:
    """Against `Generator.stream`, exactly: a row for each content, a column for each motion."""
    videos = list(sprites.draw_videos(generator, sprites.plan(generator.run, asked())))
    expected = [np.concatenate(list(generator.stream(seed, 6, 0.7, motion_seed=motion))) for seed in SEEDS for motion in MOTIONS]
    assert len({video.tobytes() for video in expected}) == len(videos) == 6
    for video, frames in zip(videos, expected, strict=True):
        assert (video == upscale(frames, 8)).all()


def test_codes_of_w_plus(generator: Generator) -> None:
    """Codes of single layers: sheets are drawn, and the page names the layers, from 0."""
    num_ws, w_dim = generator.pairs.synthesis.num_ws, generator.run.network.w_dim
    codes = torch.zeros(2, 2, num_ws, w_dim)
    codes[0, 0, 3, 5] = codes[0, 1, 1, 2] = codes[1, 0, 2, 0] = codes[1, 1, 0, 9] = 1
    run = dataclasses.replace(generator.run, codes=dataclasses.replace(generator.run.codes, space="w+"))
    of_layers = dataclasses.replace(generator, run=run, codes=codes.flatten(2))
    plan = sprites.plan(run, asked(num_steps=3))
    page = explorer_html(of_layers, plan, list(sprites.draw_sheets(of_layers, plan)), b"", "runs/x")
    assert json_of(Reader(page))["layers"] == [[3, 1], [2, 0]]
    assert "Codes of this run are of W+" in page


def test_frames_are_averaged_down() -> None:
    """Against means of blocks by hand."""
    frames = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    assert (sprites._shrunk(frames, 2)[0] == [[2.5, 4.5], [10.5, 12.5]]).all()
    assert sprites._shrunk(frames, 8) is frames


def noise_sheet(size: int, count: int = 5) -> sprites.Sheet:
    pictures = np.random.default_rng(0).integers(0, 256, (4, count, 3, size, size), np.uint8)
    return sprites.Sheet(0, 0, 0, pictures, np.zeros((2, count)))


def test_quality_falls_until_it_fits() -> None:
    """Against the files themselves: as good as fits, and noise, which no quality makes small enough, in smaller pictures."""
    sheets = [noise_sheet(32)] * 2
    best, size = sprites.pack(sheets)
    assert size == 32 and len(best) == 2
    total = sum(map(len, best))
    fewer, size = sprites.pack(sheets, total - 1)
    assert size == 32 and total // 2 < sum(map(len, fewer)) < total
    few, size = sprites.pack(sheets, total // 20)
    assert size < 32 and sum(map(len, few)) <= total // 20
    assert decoded(few[0]).shape == (3, 4 * size, 5 * size)


def test_a_noisy_video_becomes_smaller() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (4, 6, 3, 64, 64), np.uint8)
    whole = sprites.movie_of(clip, 2, 12.5)
    small = sprites.movie_of(clip, 2, 12.5, len(whole) - 1)
    assert len(small) < len(whole)
    for mp4, side in ((whole, 128), (small, 64)):
        with av.open(io.BytesIO(mp4)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert [frame.shape for frame in frames] == [(side, side, 3)] * 6


def json_of(page: Reader) -> dict[str, object]:
    (data,) = [words for words in page.words if words.startswith('{"size"')]
    return json.loads(data)


@pytest.fixture(scope="module")
def page(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Made by the verb."""
    copy = shutil.copytree(tiny_run.uri, tmp_path_factory.mktemp("explorer") / "run")
    explore.run(explore.Flags(run=str(copy), seeds="3,0", motion_seeds="0-1,7", frames=6, steps=5))
    return Reader((copy / "explorer.html").read_text(encoding="utf-8"))


def test_the_page_holds_all_that_it_shows(page: Reader) -> None:
    """Well formed, no address but data: and its own ids, one script, which its policy names by its hash."""
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or target.startswith("data:") or target[1:] in ids, (tag, target)
        for name in ("for", "list", "aria-labelledby"):
            assert name not in attributes or attributes[name] in ids
    (policy,) = [tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; ") and "script-src 'sha256-" in str(policy)
    assert [script.get("type") for script in page.all("script")] == ["application/json", None]


def test_the_page_holds_every_sheet(page: Reader, generator: Generator) -> None:
    """Against the sheets drawn again; JPEG errs by a few levels."""
    data = json_of(page)
    plan = sprites.plan(generator.run, asked(num_steps=5))
    sheets = list(sprites.draw_sheets(generator, plan))
    for sheet, file in zip(sheets, data["sheets"], strict=True):  # type: ignore[arg-type]
        shown = decoded(base64.b64decode(file)).reshape(3, 4, 16, 5, 16).transpose(1, 3, 0, 2, 4)
        assert np.abs(shown.astype(int) - sheet.pictures).mean() < 4
    np.testing.assert_allclose(data["changes"], [1000 * sheet.changes for sheet in sheets], atol=6e-4)
    np.testing.assert_allclose(data["stepLengths"], generator.step_lengths)
    assert data["seeds"] == [3, 0] and data["alphas"] == [-4, -2, 0, 2, 4] and data["layers"] is None


def test_the_video_holds_contents_by_motions(page: Reader) -> None:
    """Read back by PyAV: 2 rows of 3 columns, 6 frames, at natural speed."""
    (video,) = page.all("video")
    with av.open(io.BytesIO(base64.b64decode(str(video["src"]).removeprefix("data:video/mp4;base64,")))) as container:
        assert container.streams.video[0].average_rate == 12.5
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(2 * 128, 3 * 128, 3)] * 6
    assert {"loop", "muted", "playsinline", "controls", "aria-label"} <= video.keys()


def test_pages_without_a_script_run_none() -> None:
    page = Reader(markup.document("t", "l", []))
    (policy,) = [tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policy) and "script-src" not in str(policy) and not page.all("script")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 0}, "--frames is 0"),
        ({"seeds": "x"}, "cannot read 'x' in --seeds"),
        ({"motion_seeds": "3-1"}, "--motion-seeds '3-1' counts down"),
        ({"truncation": float("nan")}, "--truncation is nan"),
        ({"alpha": 0.0}, "--alpha is 0.0"),
        ({"alpha": float("inf")}, "--alpha is inf"),
        ({"steps": 4}, "--steps is 4; give an odd number from 3 to 101"),
        ({"steps": 1}, "--steps is 1"),
        ({"codes": 9}, "--codes is 9; this run has 1 to 2 codes each way"),
        ({"seeds": "0-4000"}, "do not fit into a page of 15 MB"),
        ({"run": "/nowhere"}, "/nowhere holds no run and no export/ of one"),
    ],
)
def test_mistakes_are_told_before_work(
    tiny_run: RunFolder, changes: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Generator, "sweep", pytest.fail)
    monkeypatch.setattr(Generator, "stream", pytest.fail)
    before = tiny_run.store.list()
    with pytest.raises(InputError, match=re.escape(words)):
        explore.run(explore.Flags(**({"run": tiny_run.uri} | changes)))  # type: ignore[arg-type]
    assert tiny_run.store.list() == before


def test_a_run_without_stage_three_is_told(tiny_run: RunFolder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run.uri, tmp_path / "run"))
    (copy / "export/latent.safetensors").unlink()
    with pytest.raises(InputError, match=r"no latent.safetensors: the run has not finished; run `python -m jobs.pipeline`"):
        explore.run(explore.Flags(run=str(copy)))
    assert not (copy / "explorer.html").exists()


def test_a_run_of_single_frames_is_told(tiny_run: RunFolder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run.uri, tmp_path / "run"))
    about = json.loads((copy / "export/config.json").read_text())
    about["config"]["network"]["frames"] = 1
    (copy / "export/config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"network\.frames is 1: .* train single frames"):
        explore.run(explore.Flags(run=str(copy)))


def test_the_verb_prints_the_path(tiny_run: RunFolder, tmp_path: Path) -> None:
    """The command itself: exit status and last line, and one line for a mistake."""
    copy = str(shutil.copytree(tiny_run.uri, tmp_path / "run"))
    command = [sys.executable, "-m", "jobs.explore", "--run", copy, "--seeds", "0-1", "--frames", "2", "--steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{copy}/explorer.html" and Path(copy, "explorer.html").exists()
    wrong = subprocess.run([*command, "--codes", "3"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --codes is 3") and len(wrong.stderr.splitlines()) == 1


def test_on_s3(tiny_run: RunFolder, s3: str) -> None:
    """Only what is exported is needed."""
    store = open_store(f"{s3}/run")
    for path in tiny_run.store.list("export/"):
        store.write(path, tiny_run.store.read(path))
    explore.run(explore.Flags(run=store.uri, seeds="0", frames=1, steps=3))
    assert store.read("explorer.html").startswith(b"<!doctype html>")
