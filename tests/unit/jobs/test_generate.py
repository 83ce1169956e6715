"""`python -m jobs.generate`: files read back by PyAV, pictures against `Generator.sample`."""

import contextlib
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from jobs import _board, generate
from mvgan.batch import Batch, Group, finish, make_group
from mvgan.config import InputError, Resources
from mvgan.media import decode_png, encode_png
from mvgan.projection import latents_file, project, read_latents
from mvgan.sample import Generator
from mvgan.storage.run import RunFolder


def flags(tiny_run: RunFolder, to: Path | str, **changes: object) -> generate.Flags:
    return generate.Flags(**({"run": tiny_run.uri, "out": str(to), "seeds": "0-3", "frames": 5} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("1,5,9", [1, 5, 9]), ("7", [7]), ("4-5,0", [4, 5, 0]), ("3-3", [3])])
def test_seeds(text: str, seeds: list[int]) -> None:
    assert _board.parse_numbers(text, "--seeds") == seeds


@pytest.mark.parametrize("text", ["", "a", "1,,2", "-1", "3-1", "1-2-3", "1.5", "1,1", "0-2,2", "٣"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(InputError, match="seed"):
        _board.parse_numbers(text, "--seeds")


@pytest.mark.parametrize(
    ("text", "count", "shape"),
    [(None, 16, (4, 4)), (None, 5, (3, 2)), (None, 1, (1, 1)), (None, 3, (2, 2)), ("2x3", 5, (2, 3)), ("16x1", 16, (16, 1))],
)
def test_grid(text: str | None, count: int, shape: tuple[int, int]) -> None:
    assert _board.parse_grid(text, count) == shape


@pytest.mark.parametrize("text", ["4", "4x", "axb", "0x0", "3x1", "-2x-2"])
def test_bad_grid(text: str) -> None:
    with pytest.raises(InputError, match="grid"):
        _board.parse_grid(text, 4)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
def test_a_file_of_all_videos(tiny_run: RunFolder, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Read back by PyAV: 5 frames of 2 x 2 videos at natural speed, 12.5 a second (25 over stride 2)."""
    out = tmp_path / f"x{suffix}"
    generate.run(flags(tiny_run, out))
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    with av.open(str(out)) as container:
        assert container.streams.video[0].average_rate == 12.5
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 5


def test_what_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A frame takes 4 s here: a line after the third, and every third from there."""
    clock = itertools.count(0, 4)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    assert list(_board.told(iter([np.zeros(1)] * 7), 7, "frames")) == [np.zeros(1)] * 7
    assert capsys.readouterr().out == "generate: 3/7 frames, 12 s, ETA 16 s\ngenerate: 6/7 frames, 24 s, ETA 4 s\n"


def test_frame_rate_by_flag(tiny_run: RunFolder, tmp_path: Path) -> None:
    generate.run(flags(tiny_run, tmp_path / "x.mp4", fps=30.0, frames=2))
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert container.streams.video[0].average_rate == 30


def test_frames_are_those_of_the_seeds_whatever_stands_beside_them(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Against `Generator.sample` of each seed alone, exactly, over the border of a piece of frames."""
    generate.run(flags(tiny_run, tmp_path / "png", seeds="4,9,2", frames=34))
    files = sorted((tmp_path / "png").iterdir())
    assert [file.name for file in files][::33] == ["000000.png", "000033.png"]
    boards = np.stack([decode_png(file.read_bytes()) for file in files])
    generator = Generator.load(tiny_run.uri)
    for place, seed in enumerate([4, 9, 2]):
        y, x = divmod(place, 2)
        cell = boards[:, :, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        assert (cell == generator.sample([seed], 34, 0.7)[0]).all()
    assert not boards[:, :, 16:, 16:].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 0}, "--frames"),
        ({"seeds": "x"}, "--seeds"),
        ({"grid": "1x1"}, "--grid"),
        ({"out": "x.mkv"}, r"\.mkv"),
        ({"fps": 0.0}, "--fps"),
        ({"truncation": -1.0}, "--truncation"),
        ({"motion_seeds": "x"}, "--motion-seeds"),
        ({"motion_seeds": "0-1", "grid": "2x4"}, "contents are rows here, and motions columns"),
        ({"motion_seeds": "0-2000"}, "4 contents with 2001 motions each are 8004 videos; one grid takes at most 4096"),
        ({"code": "forward:3"}, "there is no code forward:3; the codes of this generator are backward:1 to backward:2 and forward:1"),
        ({"code": "forward:0"}, "there is no code forward:0"),
        ({"code": "sideways:1"}, "cannot read --code 'sideways:1'"),
        ({"code": "forward:1", "alpha": -1.0}, "--alpha is -1.0"),
        ({"code": "forward:1", "alpha": float("inf")}, "--alpha is inf"),
        ({"code": "forward:1", "motion_seeds": "0"}, "leave --motion-seeds, --first, --interpolate and --hold away"),
        ({"code": "forward:1", "first": "former"}, "leave --motion-seeds, --first, --interpolate and --hold away"),
        ({"interpolate": -1}, "--interpolate is -1"),
        ({"interpolate": 1001}, "--interpolate is 1001.*at most 1000"),
        ({"code": "forward:1", "alpha": 1e300}, "--alpha is 1e.300.*at most 10000"),
        ({"fps": 1e-9}, "--fps is 1e-09; give a number from 0.01"),
        ({"resources": Resources(workers=2)}, "leave the flags of resources away, or give --format"),
        ({"alpha": 3.0}, "--alpha is of a motion code, which is not given"),
        ({"both": True}, "--both is of a motion code, which is not given"),
        ({"start": "nowhere.png"}, "there is no file nowhere.png"),
        ({"start": "nowhere.safetensors"}, "there is no file nowhere.safetensors"),
        ({"start": __file__}, "the picture .*test_generate.py cannot be opened.*give a PNG or JPEG picture"),
        ({"start": "x.png", "motion_seeds": "0"}, "--seeds are those of the motion; leave --motion-seeds away"),
        ({"start": "x.png", "code": "forward:1"}, "nothing is left for seeds to decide; leave --seeds away"),
        ({"format": "mp4", "grid": "4x4"}, "leave --start, --code and --grid away"),
        ({"format": "mp4"}, "x.mp4 is a file; with --format give a folder"),
        ({"format": "mp4", "seeds": "0-1000000"}, "names more than 1000000 videos"),
        (
            {"format": "mp4", "seeds": "0-999", "motion_seeds": "0-1000"},
            "1000 contents with 1001 motions each are more than 1000000 videos",
        ),
        ({"truncation": float("nan")}, "--truncation"),
        ({"run": "/nowhere"}, "/nowhere holds no run and no export/ of one; give the folder that a training command printed"),
    ],
)
def test_mistakes_are_told_and_write_nothing(tiny_run: RunFolder, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        generate.run(flags(tiny_run, tmp_path / "x.mp4", **changes))
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_stays_as_it_is(tiny_run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        generate.run(flags(tiny_run, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(InputError, match="is a file"):
        generate.run(flags(tiny_run, tmp_path / "plain"))


@pytest.mark.parametrize("text", ["0-9999999999", "0-4096", "0-4000,5000-5100", "9" * 5000])
def test_more_seeds_than_a_grid_takes(text: str) -> None:
    """Counted, not built: the first would be 80 GB."""
    with pytest.raises(InputError, match="--seeds"):
        _board.parse_numbers(text, "--seeds")
    assert len(_board.parse_numbers("0-4095", "--seeds")) == 4096


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": "100000x100000"}, "has 1600000 x 1600000 pixels, and a side has at most 16384; give at most 1024 columns and rows"),
        ({"grid": "1x1025"}, "has 16 x 16400 pixels"),
        ({"grid": "1000x1000"}, "a grid of 1000x1000 is too large: 58254 videos of 16 px fit into 4 GB of memory"),
    ],
)
def test_what_no_memory_holds(tiny_run: RunFolder, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    """Reference by hand: 4 GB / (3 copies of 32 frames of 3 * 16 * 16 bytes)."""
    with pytest.raises(InputError, match=words):
        generate.run(flags(tiny_run, tmp_path / "x.mp4", **changes))
    assert not list(tmp_path.iterdir())


def picture(path: Path) -> np.ndarray:
    """Its cells of 16 px: [rows, columns, 3, 16, 16]."""
    image = decode_png(path.read_bytes())
    _, height, width = image.shape
    return image.reshape(3, height // 16, 16, width // 16, 16).transpose(1, 3, 0, 2, 4)


def test_a_png_has_a_row_per_video(tiny_run: RunFolder, tmp_path: Path) -> None:
    generate.run(flags(tiny_run, tmp_path / "x.png", seeds="4,9"))
    assert (picture(tmp_path / "x.png") == Generator.load(tiny_run.uri).sample([4, 9], 5, 0.7)).all()
    generate.run(flags(tiny_run, tmp_path / "y.png", seeds="4,9", frames=None))
    assert picture(tmp_path / "y.png").shape == (2, 9, 3, 16, 16)
    with pytest.raises(InputError, match=r"--grid cannot be chosen: a \.png has a row per video"):
        generate.run(flags(tiny_run, tmp_path / "z.png", grid="2x2"))


def test_contents_are_rows_and_motions_columns(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Against the stream of each place, from the side that is asked for."""
    generate.run(flags(tiny_run, tmp_path / "png", seeds="4,9", motion_seeds="1,4,2", first="former", frames=3))
    boards = np.stack([picture(path) for path in sorted((tmp_path / "png").iterdir())])
    assert boards.shape == (3, 2, 3, 3, 16, 16)
    generator = Generator.load(tiny_run.uri)
    for (row, seed), (column, motion) in itertools.product(enumerate([4, 9]), enumerate([1, 4, 2])):
        (video,) = generator.stream(seed, 3, 0.7, motion_seed=motion, first="former")
        assert (boards[:, row, column] == video).all()


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_a_sweep_shows_the_frame_that_a_code_edits(tiny_run: RunFolder, tmp_path: Path, direction: str) -> None:
    """Against `Generator.sweep` from one end to the other; with both frames beside each other."""
    side = ("backward", "forward").index(direction)
    (pairs,) = Generator.load(tiny_run.uri).sweep(9, (side, 1), [-3.0, -1.5, 0.0, 1.5, 3.0], 0.7)
    generate.run(flags(tiny_run, tmp_path / "x.png", seeds="9", code=f"{direction}:2", alpha=3.0))
    assert (picture(tmp_path / "x.png")[0] == pairs[:, side]).all()
    generate.run(flags(tiny_run, tmp_path / "y.png", seeds="9", code=f"{direction}:2", alpha=3.0, both=True))
    assert (picture(tmp_path / "y.png")[0] == pairs.reshape(10, 3, 16, 16)).all()


def test_a_sweep_as_a_video_goes_and_comes_back(tiny_run: RunFolder, tmp_path: Path) -> None:
    """8 frames: alpha is -4 cos(2 pi t / 8), where 4 are the frames of the run's clips; all videos in one grid."""
    generate.run(flags(tiny_run, tmp_path / "png", seeds="0-3", code="forward:1", frames=8))
    boards = np.stack([picture(path) for path in sorted((tmp_path / "png").iterdir())])
    half = 4 / 2**0.5
    (pairs,) = Generator.load(tiny_run.uri).sweep(3, (1, 0), [-4.0, -half, 0.0, half, 4.0, half, 0.0, -half], 0.7)
    assert np.abs(boards[:, 1, 1].astype(int) - pairs[:, 1]).max() <= 1


def test_a_latent_to_start_from(tiny_run: RunFolder, tmp_path: Path) -> None:
    """Two latents are two rows; seeds are those of the motion. Against the stream of each."""
    generator = Generator.load(tiny_run.uri)
    w = torch.stack([generator.content(seed, 0.7)[0] for seed in (4, 9)])
    (tmp_path / "w.safetensors").write_bytes(latents_file(w))
    there = {"start": str(tmp_path / "w.safetensors"), "frames": 3}
    generate.run(flags(tiny_run, tmp_path / "png", seeds="1,5,2", **there))
    boards = np.stack([picture(path) for path in sorted((tmp_path / "png").iterdir())])
    for (row, start), (column, motion) in itertools.product(enumerate(w), enumerate([1, 5, 2])):
        (video,) = generator.stream(generate.START_SEED, 3, motion_seed=motion, w=start)
        assert (boards[:, row, column] == video).all()
    generate.run(flags(tiny_run, tmp_path / "x.png", seeds=None, code="forward:1", alpha=1.0, **there))
    (pairs,) = generator.sweep(generate.START_SEED, (1, 0), [-1.0, 0.0, 1.0], w=w[1])
    assert (picture(tmp_path / "x.png")[1] == pairs[:, 1]).all()


def test_a_picture_to_start_from(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The latent that is found is kept, gives the same video again, and brings its first frame nearer to the picture than the mean does."""
    monkeypatch.setattr(generate, "project", functools.partial(project, steps=60))
    generator = Generator.load(tiny_run.uri)
    wanted = generator.sample([8], 1)[0, 0]
    (tmp_path / "face.png").write_bytes(encode_png(wanted))
    generate.run(flags(tiny_run, tmp_path / "x.png", start=str(tmp_path / "face.png"), seeds="0,1", frames=2))
    assert "projection: 60/60 steps" in capsys.readouterr().out
    w = read_latents(str(tmp_path / "x.w.safetensors"), 32)
    generate.run(flags(tiny_run, tmp_path / "y.png", start=str(tmp_path / "x.w.safetensors"), seeds="0,1", frames=2))
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    (mean,) = generator.stream(generate.START_SEED, 1, 0.0)
    rows = picture(tmp_path / "x.png").astype(float)
    assert len(w) == 1 and (rows[0, 0] == rows[1, 0]).all()
    assert np.square(rows[0, 0] - wanted).mean() < 0.5 * np.square(mean[0].astype(float) - wanted).mean()


def test_a_batch(tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the flags make of it, in one process in place of a cluster; again, it is only told."""

    def one_process(run: str, out: str, batch: Batch, groups: Sequence[Group], resources: Resources) -> dict[str, Any]:
        entries = [entry for group in groups for entry in make_group(run, out, batch, group, torch.device("cpu"))]
        return finish(out, batch, groups, entries)

    monkeypatch.setattr(generate, "session", lambda resources: contextlib.nullcontext())
    monkeypatch.setattr(generate, "generate", one_process)
    out = tmp_path / "videos.d"
    for _ in range(2):
        generate.run(flags(tiny_run, out, format="mp4", seeds="1-2", motion_seeds="2-3", frames=3))
        said = capsys.readouterr().out
        assert said == f"generate: 4 videos in 4 files, listed in {out}/manifest.json\n{out}\n"
        monkeypatch.setattr(generate, "generate", pytest.fail)
    manifest = json.loads((out / "manifest.json").read_text())
    assert [manifest[key] for key in ("num_frames", "truncation", "first", "fps", "format")] == [
        3,
        0.7,
        tiny_run.run.video.first,
        12.5,
        "mp4",
    ]
    assert [entry["videos"] for entry in manifest["objects"]] == [[[1, 2]], [[1, 3]], [[2, 2]], [[2, 3]]]
    with pytest.raises(InputError, match="holds another batch of videos: num_frames was 3, now 4"):
        generate.run(flags(tiny_run, out, format="mp4", seeds="1-2", motion_seeds="2-3", frames=4))
