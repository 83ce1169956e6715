"""`python -m jobs.generate`: files read back by PyAV, pictures against `Generator.sample`."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from jobs import _board, generate
from mvgan.config import InputError
from mvgan.media import decode_png
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
        ({"truncation": float("nan")}, "--truncation"),
        ({"run": "/nowhere"}, "config.json"),
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
        ({"frames": 10**11}, "--frames 100000000000 is too long for 4 videos: their latents fill 4 GB of memory at 4194304; give fewer"),
        ({"frames": 4194305}, "at 4194304"),
    ],
)
def test_what_no_memory_holds(tiny_run: RunFolder, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    """Reference by hand: 4 GB / (3 copies of 32 frames of 3 * 16 * 16 bytes), and 4 GB / (4 videos * 2 * 32 numbers of 4 bytes)."""
    with pytest.raises(InputError, match=words):
        generate.run(flags(tiny_run, tmp_path / "x.mp4", **changes))
    assert not list(tmp_path.iterdir())
