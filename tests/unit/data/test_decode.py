"""Decoding, resizing and pieces, against brute force, scipy and files whose content is known."""

import io
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from mvgan.data.decode import OverLimit, Undecodable, Video, decode_image, decode_piece, encode_piece, resize_square
from mvgan.data.synthetic import factors, render_clip
from mvgan.media import encode_png, encode_video


REAL = pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA is not set")


def real(folder: str) -> Path:
    return Path(os.environ["MVGAN_TEST_DATA"], folder)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def frames_of(path: Path) -> list[np.ndarray]:
    with path.open("rb") as file:
        return [picture.image for picture in Video(file)]


def area_brute_force(image: np.ndarray, resolution: int) -> np.ndarray:
    """Mean over each block, by loops: for an integer factor this is the definition of an area average."""
    factor = image.shape[0] // resolution
    result = np.zeros((resolution, resolution, 3))
    for row in range(resolution):
        for column in range(resolution):
            block = image[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            result[row, column] = block.reshape(-1, 3).mean(0)
    return result


def test_shrinking_by_an_integer_is_the_block_mean_of_the_centre_square() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    expected = area_brute_force(image[:, 6:54], 16)
    assert np.abs(resize_square(image, 16) - expected).max() <= 0.5 + 1e-3


def test_shrinking_by_a_fraction_weighs_pixels_by_their_overlap() -> None:
    # Repeating each pixel 2 times turns the ratio 5:2 into blocks of 5: an exact reference.
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = area_brute_force(image.repeat(2, 0).repeat(2, 1), 16)
    assert np.abs(resize_square(image, 16) - expected).max() <= 0.5 + 1e-3


def test_enlarging_keeps_constants_and_reproduces_a_smooth_wave() -> None:
    assert (resize_square(np.full((20, 20, 3), 77, np.uint8), 32) == 77).all()

    def wave(size: int) -> np.ndarray:
        x = (np.arange(size) + 0.5) / size
        return np.broadcast_to(127.5 + 100 * np.cos(4 * np.pi * x)[:, None, None], (size, size, 3))

    enlarged = resize_square(wave(40).round().astype(np.uint8), 64)
    assert np.abs(enlarged[8:-8].astype(float) - wave(64)[8:-8]).max() < 2


def test_same_size_is_untouched() -> None:
    image = np.random.default_rng(2).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    assert (resize_square(image, 16) == image[:, 2:18]).all()


@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
def test_pieces_of_synthetic_clips_reach_38_db(resolution: int) -> None:
    """Reference: the frames before coding, resized by block means in float64."""
    for content, motion in factors(4, 16, seed=5):
        clip = render_clip(content, motion, 64).transpose(0, 2, 3, 1)
        resized = np.stack([resize_square(frame, resolution) for frame in clip])
        expected = np.stack([area_brute_force(frame, resolution) for frame in clip])
        assert psnr(decode_piece(encode_piece(resized, 25, qp=14)), expected) >= 38


@REAL
def test_pieces_of_talker_clips_reach_38_db() -> None:
    """Reference: decoded by PyAV's own conversion and averaged over blocks of the centre square."""
    for path in sorted(real("talker").iterdir())[::21]:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24")[:, 36:324] for frame in container.decode(video=0)][:16]
        expected = np.stack([area_brute_force(frame, 32) for frame in frames])
        piece = encode_piece(np.stack([resize_square(frame, 32) for frame in frames_of(path)[:16]]), 25, qp=14)
        assert psnr(decode_piece(piece), expected) >= 38


def test_a_piece_is_one_closed_group_and_the_same_each_time() -> None:
    frames = np.random.default_rng(3).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    data = encode_piece(frames, 30000 / 1001, qp=14)
    assert data == encode_piece(frames, 30000 / 1001, qp=14)
    kinds = [data[at + 3] & 31 for at in range(len(data) - 3) if data[at : at + 3] == b"\0\0\1"]
    assert [kind for kind in kinds if kind in (1, 5)] == [5, 1, 1, 1, 1]  # H.264 NAL types: an IDR picture, then four others
    assert kinds[0] == 7  # the parameter set comes first: the piece needs nothing from outside
    assert decode_piece(data).shape == frames.shape


@pytest.mark.parametrize("size", [16, 50, 64])
def test_frames_at_places_are_those_of_the_whole_piece(size: int) -> None:
    """Reference: PyAV's own conversion of each decoded frame to packed RGB, with the same exact flags. 50 pads its rows."""
    content, motion = factors(1, 9, 1)[0]
    noise = np.random.default_rng(0).integers(-30, 30, (9, 3, size, size))
    frames = np.clip(render_clip(content, motion, size) + noise, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    data = encode_piece(frames, 25, qp=14)
    codec = av.CodecContext.create("h264", "r")
    decoded = [frame for packet in [*codec.parse(data), *codec.parse(None), None] for frame in codec.decode(packet)]
    exact = (
        Interpolation.BICUBIC
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.ACCURATE_RND
        | Interpolation.BITEXACT
    )
    flags = {"format": "rgb24", "src_colorspace": Colorspace.ITU601, "interpolation": exact}
    expected = np.stack([VideoReformatter().reformat(frame, **flags).to_ndarray() for frame in decoded])
    np.testing.assert_array_equal(decode_piece(data), expected)
    for places in ([0], [8], [2, 3, 7], range(9)):
        np.testing.assert_array_equal(decode_piece(data, places), expected[list(places)])
    with pytest.raises(Undecodable, match="9 frames"):
        decode_piece(data, [3, 9])


@pytest.mark.parametrize("fps", [1e-5, 90000.0])
def test_any_frame_rate_can_be_coded(fps: float) -> None:
    assert decode_piece(encode_piece(np.zeros((2, 16, 16, 3), np.uint8), fps, qp=14)).shape == (2, 16, 16, 3)


@pytest.mark.parametrize("data", [b"", b"nothing", b"\0\0\1" + bytes(100)])
def test_what_is_no_piece_is_told(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_piece(data)


def colours(height: int, width: int) -> np.ndarray:
    """A picture whose four corners differ, so that every rotation shows."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (250, 20, 20)
    image[: height // 2, width // 2 :] = (20, 250, 20)
    image[height // 2 :, : width // 2] = (20, 20, 250)
    image[height // 2 :, width // 2 :] = (240, 240, 240)
    return image


def with_display_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """Put a matrix into the track header of an MP4 (ISO 14496-12, tkhd: nine 32-bit numbers): (x, y) is shown at (ax + cy, bx + dy)."""
    one = 1 << 16
    at = mp4.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    packed = b"".join(value.to_bytes(4, "big", signed=True) for value in (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30))
    assert mp4[at : at + 4] == one.to_bytes(4, "big"), "the identity was expected here"
    return mp4[:at] + packed + mp4[at + 36 :]


MATRICES = [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", MATRICES, ids=["90", "180", "270", "mirrored", "upside down", "transposed", "other diagonal"])
def test_rotation_and_mirroring_in_metadata_are_applied(matrix: tuple[int, int, int, int]) -> None:
    """Reference: each corner moved by the matrix itself, as the standard says, relative to the centre."""
    a, b, c, d = matrix
    height, width = (32, 48) if a else (48, 32)
    video = Video(io.BytesIO(with_display_matrix(encode_video(np.stack([colours(32, 48).transpose(2, 0, 1)] * 3), 25, ".mp4"), *matrix)))
    shown = next(iter(video)).image
    assert shown.shape == (height, width, 3) and video.notes == []
    for x in (-1, 1):
        for y in (-1, 1):
            stored = colours(32, 48)[6 if y < 0 else -6, 6 if x < 0 else -6].astype(int)
            column, row = a * x + c * y, b * x + d * y
            assert np.abs(shown[6 if row < 0 else -6, 6 if column < 0 else -6] - stored).max() < 16


def test_a_matrix_that_is_no_quarter_turn_is_ignored_and_said() -> None:
    video = Video(io.BytesIO(with_display_matrix(encode_video(np.zeros((2, 3, 32, 48), np.uint8), 25, ".mp4"), 1, 1, -1, 1)))
    assert [picture.image.shape for picture in video] == [(32, 48, 3)] * 2
    assert video.notes == ["its display matrix is no quarter turn and is ignored"]


@REAL
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_phone_videos_come_out_upright(degrees: int) -> None:
    """Reference: size and rotation that expected.json lists for files of decord's test suite."""
    name = f"real/decord_rotated_{degrees}.mov"
    known = json.loads((real("odd") / "expected.json").read_text())["files"][name]
    decoded = frames_of(real("odd") / name)
    stored = (known["height"], known["width"], 3)
    assert len(decoded) == known["frames"]
    assert decoded[0].shape == (stored if known["rotation"][0] % 180 == 0 else (stored[1], stored[0], 3))


def test_the_largest_video_stream_is_read() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        streams: list[Any] = []
        for size in (32, 64, 48):
            stream: Any = container.add_stream("libx264", rate=25)
            stream.width = stream.height = size
            streams.append(stream)
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.full((stream.width, stream.width, 3), 99, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    file.seek(0)
    assert next(iter(Video(file))).image.shape == (64, 64, 3)


@pytest.mark.parametrize("data", [b"", b"text " * 99])
def test_what_is_no_video_is_told(data: bytes) -> None:
    with pytest.raises(Undecodable, match="opened"):
        Video(io.BytesIO(data))


def test_huge_frames_are_refused_by_their_header() -> None:
    data = encode_video(np.zeros((2, 3, 64, 64), np.uint8), 25, ".mp4")
    assert len(list(Video(io.BytesIO(data), max_pixels=64 * 64))) == 2
    with pytest.raises(OverLimit, match=r"64x64 pixels; ingest\.max_pixels is 4095"):
        Video(io.BytesIO(data), max_pixels=64 * 64 - 1)


def test_images_decode_exactly() -> None:
    image = np.random.default_rng(4).integers(0, 256, (3, 10, 14), dtype=np.uint8)
    assert (decode_image(io.BytesIO(encode_png(image))).transpose(2, 0, 1) == image).all()
    with pytest.raises(Undecodable):
        decode_image(io.BytesIO(encode_png(image)[:40]))


def movie(frames: np.ndarray, *, container: str = "matroska", codec: str = "ffv1", pixels: str = "bgr0", **fields: Any) -> bytes:
    """Frames [t, h, w, 3] as a video, lossless by default; `fields` are set on its coder."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for name, value in fields.items():
            setattr(stream.codec_context, name, value)
        for image in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)))
        output.mux(stream.encode(None))
    return file.getvalue()


def test_a_stream_that_breaks_off_is_taken_up_to_there_and_marked() -> None:
    """The packets of the last third of an AVI of PNG pictures are overwritten: the frames before come out unaltered."""
    frames = np.random.default_rng(5).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    whole = movie(frames, container="avi", codec="png", pixels="rgb24")
    starts = [at for at in range(len(whole)) if whole.startswith(b"\x89PNG", at)]
    assert len(starts) == 9
    broken = whole[: starts[6]] + bytes(len(whole) - starts[6] - 2000) + whole[-2000:]
    video = Video(io.BytesIO(broken))
    assert all((picture.image == frame).all() for picture, frame in zip(video, frames[:6], strict=True))
    assert video.damaged is not None and video.damaged.startswith("breaks off after 6 frames: ")
    sound = Video(io.BytesIO(whole))
    assert len(list(sound)) == 9 and sound.damaged is None


def test_a_file_cut_short_is_marked_even_where_no_error_is_reported() -> None:
    frames = np.random.default_rng(6).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    data = movie(frames, container="avi", codec="png", pixels="rgb24")
    twelfth = [at for at in range(len(data)) if data.startswith(b"\x89PNG", at)][12] - 8  # a chunk begins with its name and size
    video = Video(io.BytesIO(data[:twelfth]))
    assert len(list(video)) == 12 and video.damaged == "ends after 12 of the 20 frames of its header"


def test_pixels_that_are_not_square_are_made_so() -> None:
    """A disc drawn in pixels of 16:9 comes out as wide as high. Reference: the ellipse's area and extent."""
    height, width, aspect = 90, 160, Fraction(16, 9)
    y, x = np.mgrid[:height, :width]
    disc = ((x - 79.5) * float(aspect)) ** 2 + (y - 44.5) ** 2 < 30**2
    frames = np.broadcast_to(disc[None, ..., None] * np.uint8(255), (2, height, width, 3)).copy()
    video = Video(io.BytesIO(movie(frames, container="mp4", codec="libx264", pixels="yuv444p", sample_aspect_ratio=aspect)))
    picture = next(iter(video))
    assert picture.aspect == aspect and video.notes == ["its pixels are of 16:9, made square"]
    seen = resize_square(picture.image, 64, picture.aspect)[..., 0] > 127
    across, down = seen.any(0).sum(), seen.any(1).sum()
    assert abs(int(across) - 60 * 64 / 90) <= 2 and abs(int(down) - 60 * 64 / 90) <= 2
    assert (resize_square(picture.image, 64)[..., 0] > 127).any(0).sum() < 0.7 * down  # without it the disc is narrow


def test_an_absurd_pixel_aspect_is_ignored_and_said() -> None:
    black = np.zeros((2, 32, 32, 3), np.uint8)
    data = movie(black, container="mp4", codec="libx264", pixels="yuv444p", sample_aspect_ratio=Fraction(1, 10))
    video = Video(io.BytesIO(data))
    assert {picture.aspect for picture in video} == {1} and video.notes == ["its pixels are of 1:10, which is ignored"]


def test_transparency_is_dropped_and_said() -> None:
    video = Video(io.BytesIO(movie(np.full((2, 16, 16, 3), 200, np.uint8), container="mov", codec="png", pixels="rgba")))
    assert all((picture.image == 200).all() for picture in video) and video.notes == ["transparency is dropped"]


def test_a_cover_picture_is_no_video_stream() -> None:
    """The cover of an MP4 has more pixels than its video."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        video: Any = output.add_stream("libx264", rate=25)
        video.width = video.height = 32
        cover: Any = output.add_stream("png", rate=25)
        cover.width = cover.height = 128
        cover.pix_fmt = "rgb24"
        cover.disposition = Disposition.attached_pic
        for stream, count in ((cover, 1), (video, 4)):
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(np.zeros((stream.width, stream.width, 3), np.uint8), "rgb24")
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    file.seek(0)
    assert [picture.image.shape for picture in Video(file)] == [(32, 32, 3)] * 4


def test_the_frame_rate_is_that_of_the_file() -> None:
    frames = np.zeros((6, 3, 16, 16), np.uint8)
    assert Video(io.BytesIO(encode_video(frames, 30000 / 1001, ".mp4"))).rate == Fraction(30000, 1001)
