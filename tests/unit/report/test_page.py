"""The page itself: read back by Python's HTML parser, its files by PyAV."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from mvgan.config import InputError
from mvgan.data.shards import ShardSet
from mvgan.report import build_report, markup, pictures
from mvgan.report.collect import disjoint_draws, real_clips
from mvgan.report.page import render_report
from mvgan.storage.run import RECORD, RunFolder, read_run
from mvgan.storage.uri import open_store


VOID = {"meta", "link", "img", "br", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, ids, and whether every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    copy = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(tiny_run.uri, copy)
    path = build_report(read_run(str(copy)))
    assert path == str(copy / "report.html")
    return Reader(Path(path).read_text(encoding="utf-8"))


def test_it_is_well_formed_and_needs_no_network(page: Reader) -> None:
    """Reference: the HTML standard, and its own ids."""
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith("data:") or (target[0] == "#" and target[1:] in ids), (tag, target)
        assert tag not in ("script", "iframe", "object")
    assert not re.search(r"url\((?!#)|@import", "".join(page.words))


def test_every_picture_has_words(page: Reader) -> None:
    assert len(page.all("img")) > 8
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all(video["aria-label"] for video in page.all("video"))


def test_videos_play_inline(page: Reader) -> None:
    """Read back by PyAV: frames, speed (25 a second over stride 2), and the attributes that phones ask for."""
    videos = page.all("video")
    lengths = []
    for video in videos:
        assert {"autoplay", "loop", "muted", "playsinline"} <= video.keys()
        data = base64.b64decode(str(video["src"]).removeprefix("data:video/mp4;base64,"))
        with av.open(io.BytesIO(data)) as container:
            assert container.streams.video[0].average_rate == 12.5
            lengths.append(sum(1 for _ in container.decode(video=0)))
    assert lengths == [4, 4, 16]


def test_pictures_are_jpegs_that_are_not_too_wide(page: Reader) -> None:
    for image in page.all("img"):
        data = base64.b64decode(str(image["src"]).removeprefix("data:image/jpeg;base64,"))
        with av.open(io.BytesIO(data), format="jpeg_pipe") as container:
            (frame,) = container.decode(video=0)
        assert frame.width <= pictures.MOST_ACROSS


def test_a_wide_picture_is_made_smaller_by_a_whole_factor() -> None:
    """Blocks of 4 by 4 come out as their means, but for what JPEG loses; and videos alike."""
    means = np.random.default_rng(0).integers(40, 216, (3, 8, 32)).astype(np.uint8).repeat(32, 1).repeat(32, 2)
    board = means.repeat(4, 1).repeat(4, 2)
    assert board.shape == (3, 1024, 4096)
    board[:, ::2, ::2] += 20  # three pixels of four are lower by 20: on average 5 more
    np.testing.assert_array_equal(pictures._pooled(board, 4), means + 5)
    with av.open(io.BytesIO(pictures.light(board)), format="jpeg_pipe") as container:
        (frame,) = container.decode(video=0)
    shown = frame.to_ndarray(format="rgb24").transpose(2, 0, 1).astype(int)
    assert shown.shape == (3, 256, 1024) and np.abs(shown - means - 5).mean() < 3
    videos = np.stack([board[:, :256, :256]] * 4)[:, None]
    np.testing.assert_array_equal(pictures._tile(videos, 2)[0, :, 128:, 128:], pictures._pooled(board[:, :256, :256], 2))


def test_it_tells_the_run(page: Reader, tiny_run: RunFolder) -> None:
    """Against the run's own files."""
    words = " ".join(page.words)
    codes = json.loads(tiny_run.store.read("export/codes.json"))
    assert f"{codes['edits']['generalized']['backward']['median']:.2f}" in words
    assert "total_kimg" in words and "0.064" in words and "r1_gamma" in words
    assert "8" in words and "192" in words  # videos and frames
    assert "not FID" in words
    # The tiny run is below what gates (a) and (b) rest on.
    assert "Measured on 64 pairs; 1,024 are asked for" in words
    assert "2 codes where 10 are asked for, 2 Grams where 8 are asked for" in words and "32 fresh latents" in words
    assert "has not ended" not in words
    assert "over 4 videos of 1,000 frames" in words and "frames beyond" in words  # drift


def test_the_settings_of_ingest_are_those_of_the_shards(tiny_run: RunFolder, tmp_path: Path) -> None:
    """A run on shards that were made before has others of its own, which shaped nothing."""
    copied = read_run(str(shutil.copytree(tiny_run.uri, tmp_path / "run")))
    asked = dataclasses.replace(copied, run=dataclasses.replace(copied.run, ingest=dataclasses.replace(copied.run.ingest, qp=33)))
    words = " ".join(Reader(render_report(asked)).words)
    assert re.search(r"\bqp\b\W+14\b", words) and not re.search(r"\bqp\b\W+33\b", words)


def test_text_is_escaped() -> None:
    """Against the HTML parser: what goes in as text comes out as text."""
    nasty = "<script>alert('1')</script> & \"x\""
    body = markup.table([(nasty, nasty)], nasty) + markup.image(b"", nasty, nasty)
    body += markup.notice(nasty) + markup.config_tables({nasty: nasty})
    reader = Reader(markup.document(nasty, nasty, [markup.Section("a", nasty, body)]))
    assert not reader.all("script")
    assert (
        sum(words.count("alert") for words in reader.words) == 12
    )  # title twice, lead, link, heading, caption, row, figure, notice, setting
    assert reader.all("img")[0]["alt"] == nasty


def copy_without(tiny_run: RunFolder, to: Path, *gone: str) -> RunFolder:
    shutil.copytree(tiny_run.uri, to)
    for path in gone:
        target = to / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    return read_run(str(to))


def test_a_run_in_stage_one_is_reported_as_far_as_it_is(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = copy_without(tiny_run, tmp_path / "run", "export", "codes", "video")
    for path in (tmp_path / "run/samples").glob("video-*"):
        path.unlink()
    reader = Reader(Path(build_report(folder)).read_text(encoding="utf-8"))
    words = " ".join(reader.words)
    assert "Stages without a result: pairs, codes, video" in words
    assert "Stage codes has not finished" in words and not reader.all("video")


def test_on_s3(tiny_run: RunFolder, s3: str) -> None:
    """Against the page of the same run on the local disk: the same but for where it lies."""
    for source, sub in ((tiny_run.store, "run"), (open_store(tiny_run.data), "data")):
        for path in source.list():
            open_store(f"{s3}/{sub}").write(path, source.read(path))
    store = open_store(f"{s3}/run")
    record = json.loads(store.read(RECORD))
    store.write(RECORD, json.dumps(record | {"data": f"{s3}/data"}).encode())
    assert build_report(read_run(store.uri)) == f"{s3}/run/report.html"
    page = store.read("report.html").decode()
    assert page.replace(f"{s3}/run", tiny_run.uri).replace(f"{s3}/data", tiny_run.data) == render_report(tiny_run)


def test_a_run_without_metrics_is_an_error_that_names_the_stage(tiny_run: RunFolder, tmp_path: Path) -> None:
    folder = copy_without(tiny_run, tmp_path / "run", "pairs/metrics.jsonl")
    with pytest.raises(InputError, match="stage pairs"):
        build_report(folder)
    assert not (tmp_path / "run/report.html").exists()


def test_the_verb_prints_the_path_and_tells_mistakes(tiny_run: RunFolder, tmp_path: Path) -> None:
    """The command itself: exit status and last line."""
    copy = copy_without(tiny_run, tmp_path / "run", "video").store.uri
    done = subprocess.run([sys.executable, "-m", "jobs.report", "--run", copy], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{copy}/report.html"
    wrong = subprocess.run([sys.executable, "-m", "jobs.report", "--run", str(tmp_path)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and RECORD in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_the_two_real_draws_share_nothing(tiny_run: RunFolder) -> None:
    """Against the frames themselves, also where the data hardly holds two draws: 8 videos x 20 pairs for 2 x 64."""
    shards = ShardSet.open(tiny_run.data)
    first, second = disjoint_draws(shards, tiny_run)
    assert len(first) == len(second) > 0
    cells = [{(item.video, *sorted(item.frames)) for item in draw} for draw in (first, second)]
    assert not cells[0] & cells[1]


def test_real_clips_are_of_different_videos(tiny_run: RunFolder) -> None:
    """Against the number of videos: 8, whatever is asked for."""
    shards = ShardSet.open(tiny_run.data)
    clips = list(real_clips(shards, tiny_run, 64))
    assert len(clips) == 8 and clips[0].shape == (4, 3, 16, 16)
    assert len({clip.tobytes() for clip in clips}) == 8


def test_samples_over_time(tiny_run: RunFolder) -> None:
    """The first and the last are always shown."""
    everything = [int(path[-13:-4]) for path in tiny_run.store.list("samples/pairs")]
    few = pictures.sample_pictures(tiny_run.store, "pairs", 3)
    assert [sample.images for sample in few][:: len(few) - 1] == [everything[0], everything[-1]]
    assert len(few) == 3
    assert pictures.sample_pictures(tiny_run.store, "nothing") == []


def test_code_pictures_show_an_edit_of_the_said_size(tiny_run: RunFolder) -> None:
    """Against the pixels: the edited frame changes by VISIBLE_MSE (but for clipping and rounding), per row."""
    from safetensors.torch import load

    drawn, troubles = pictures.code_pictures(tiny_run, load(tiny_run.store.read("export/codes.safetensors")))
    assert len(drawn) == 4 and not troubles
    for code in drawn:
        board = code.board[:, ::4, ::4] / 127.5 - 1
        cells = board.reshape(3, pictures.CODE_LATENTS, 16, 6, 16).transpose(1, 3, 0, 2, 4)
        edited = 0 if code.direction == "backward" else 3
        change = np.square(cells[:, edited + 1] - cells[:, edited])
        assert change.mean((1, 2, 3)).max() < pictures.VISIBLE_MSE * 1.1
        # The difference beside it, from 0 (black), is that change amplified.
        shown = (cells[:, edited + 2] + 1) / pictures.AMPLIFY
        np.testing.assert_allclose(shown, np.abs(cells[:, edited + 1] - cells[:, edited]).clip(0, 2 / pictures.AMPLIFY), atol=0.012)
