"""Files for people, read back by PyAV."""

import io
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from mvgan.config import InputError
from mvgan.data.synthetic import factors, render_clip
from mvgan.media import SUFFIXES, decode_png, encode_jpeg, encode_png, encode_video, grid, upscale, write_movie


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    content, motion = factors(1, 12, seed=1)[0]
    return upscale(render_clip(content, motion, 32), 2)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("crop", [0, 1])
def test_a_video_comes_back(clip: np.ndarray, suffix: str, crop: int) -> None:
    frames = clip[:, :, crop:, : 64 - crop]
    data = encode_video(frames, 20, suffix)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 20
        assert stream.codec_context.name == {".mp4": "h264", ".webm": "vp9", ".gif": "gif"}[suffix]
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]).transpose(0, 3, 1, 2)
    if suffix != ".gif":
        assert back.shape[2] % 2 == 0 and back.shape[3] % 2 == 0
    assert len(back) == len(frames)
    error = (back[:, :, : frames.shape[2], : frames.shape[3]].astype(float) - frames) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 28


def test_an_mp4_plays_in_browsers(clip: np.ndarray) -> None:
    """Its index stands before the pictures (ISO 14496-12 boxes), and its pixels are 4:2:0."""
    data = encode_video(clip, 25, ".mp4")
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_may_come_one_by_one(clip: np.ndarray, suffix: str, tmp_path: Path) -> None:
    """From an iterator, as long videos come: as many frames as it gave, and the bytes that an array of them makes."""
    path = tmp_path / f"x{suffix.upper()}"
    assert write_movie(str(path), iter(clip), 12.5) == 12
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    if suffix != ".webm":  # each WebM has an identifier drawn anew
        assert path.read_bytes() == encode_video(clip, 12.5, suffix)


def test_wrong_input_is_told(clip: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        write_movie(str(tmp_path / "x.mp4"), iter(()), 25)
    with pytest.raises(ValueError, match="t >= 1"):
        encode_video(clip[:0], 25, ".gif")
    with pytest.raises(InputError, match=r"\.mkv"):
        encode_video(clip, 25, ".mkv")
    with pytest.raises(ValueError, match="uint8"):
        encode_video(clip.astype(np.float32), 25, ".mp4")
    with pytest.raises(ValueError, match="picture"):
        encode_png(clip)


def test_png_is_exact_and_reads_by_the_standard() -> None:
    """Reference: the PNG specification (signature, IHDR, checksum), and the pixels themselves."""
    image = np.random.default_rng(0).integers(0, 256, (3, 11, 7), dtype=np.uint8)
    data = encode_png(image)
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR"
    assert int.from_bytes(data[16:20], "big") == 7 and int.from_bytes(data[20:24], "big") == 11
    assert int.from_bytes(data[29:33], "big") == zlib.crc32(data[12:29])
    assert (decode_png(data) == image).all()


def test_grid_and_upscale() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 4), np.uint8)
    board = grid(images, 3)
    assert board.shape == (3, 4, 12)
    assert board[0, ::2, ::4].tolist() == [[0, 1, 2], [3, 4, 0]]
    assert upscale(board, 3).shape == (3, 12, 36)
    assert (upscale(board, 3)[:, 1::3, 2::3] == board).all()


def test_jpeg() -> None:
    """Read back by PyAV: a few levels away from smooth colours, sharp in colour too, the coarser the smaller, always the same bytes."""
    y, x = np.mgrid[:48, :80]
    picture = np.stack([3 * x, 5 * y, 255 - 3 * x]).astype(np.uint8)
    picture[:, 16:32, 16:32] = np.array([255, 0, 0], np.uint8)[:, None, None]
    files = [encode_jpeg(picture, quantizer) for quantizer in (2, 12)]
    assert files[0] == encode_jpeg(picture, 2) and len(files[1]) < len(files[0])
    with av.open(io.BytesIO(files[0])) as container:
        (frame,) = container.decode(video=0)
    assert frame.format.name in ("yuv444p", "yuvj444p")
    shown = frame.to_ndarray(format="rgb24").transpose(2, 0, 1).astype(int)
    assert np.abs(shown - picture).mean() < 2 and np.abs(shown - picture).max() < 24


@pytest.mark.parametrize("shape", [(48, 80), (4, 48, 80), (1, 3, 48, 80)])
def test_jpeg_of_something_else(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[3, h, w\]"):
        encode_jpeg(np.zeros(shape, np.uint8), 2)
