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
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from mvgan.data.decode import Undecodable, decode_image, decode_piece, decode_video, encode_piece, resize_square
from mvgan.data.synthetic import factors, render_clip
from mvgan.media import encode_png, encode_video


REAL = pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA is not set")


def real(folder: str) -> Path:
    return Path(os.environ["MVGAN_TEST_DATA"], folder)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


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
        _, ours = decode_video(str(path))
        piece = encode_piece(np.stack([resize_square(frame, 32) for frame in ours][:16]), 25, qp=14)
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


def with_display_matrix(mp4: bytes, clockwise: int) -> bytes:
    """Put the rotation into the track header of an MP4 (ISO 14496-12, tkhd: nine 32-bit numbers of a matrix)."""
    one = 1 << 16
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    matrix = [cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30]
    at = mp4.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    packed = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    assert mp4[at : at + 4] == one.to_bytes(4, "big"), "the identity was expected here"
    return mp4[:at] + packed + mp4[at + 36 :]


@pytest.mark.parametrize(("clockwise", "corner"), [(90, (20, 20, 250)), (180, (240, 240, 240)), (270, (20, 250, 20))])
def test_rotation_in_metadata_is_applied(clockwise: int, corner: tuple[int, int, int]) -> None:
    """Turned clockwise by 90 degrees, the lower left corner comes to the upper left, and so on."""
    mp4 = encode_video(np.stack([colours(32, 48).transpose(2, 0, 1)] * 3), 25, ".mp4")
    _, frames = decode_video(io.BytesIO(with_display_matrix(mp4, clockwise)))
    first = next(frames)
    assert first.shape == ((32, 48, 3) if clockwise == 180 else (48, 32, 3))
    assert np.abs(first[6, 6].astype(int) - corner).max() < 16


@REAL
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_phone_videos_come_out_upright(degrees: int) -> None:
    """Reference: size and rotation that expected.json lists for files of decord's test suite."""
    name = f"real/decord_rotated_{degrees}.mov"
    known = json.loads((real("odd") / "expected.json").read_text())["files"][name]
    _, frames = decode_video(str(real("odd") / name))
    decoded = list(frames)
    stored = (known["height"], known["width"], 3)
    assert len(decoded) == known["frames"]
    assert decoded[0].shape == (stored if known["rotation"][0] % 180 == 0 else (stored[1], stored[0], 3))


@REAL
def test_every_odd_file_is_decoded_or_told() -> None:
    """Reference: the outcomes that expected.json lists; a file that breaks off counts as undecodable."""
    known = json.loads((real("odd") / "expected.json").read_text())["files"]
    assert known.pop("real/torchcodec_two_video_streams.mp4")["frames"] == 325  # of its smaller stream, which is not the one we read
    for name, facts in known.items():
        try:
            _, frames = decode_video(str(real("odd") / name))
            count = sum(1 for _ in frames)
        except Undecodable as error:
            assert facts["outcome"] != "ok", (name, str(error))
            assert "\n" not in str(error)
            continue
        assert (facts["outcome"], facts.get("frames", 0)) in (("ok", count), ("no_frames", count)), name


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
    _, frames = decode_video(file)
    assert next(frames).shape == (64, 64, 3)


@pytest.mark.parametrize("data", [b"", b"text " * 99])
def test_what_is_no_video_is_told(data: bytes) -> None:
    with pytest.raises(Undecodable, match="opened"):
        decode_video(io.BytesIO(data))


def test_huge_frames_are_refused_by_their_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_video(np.zeros((2, 3, 64, 64), np.uint8), 25, ".mp4")
    monkeypatch.setattr("mvgan.data.decode.MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(Undecodable, match="64x64 pixels"):
        decode_video(io.BytesIO(data))


def test_images_decode_exactly() -> None:
    image = np.random.default_rng(4).integers(0, 256, (3, 10, 14), dtype=np.uint8)
    assert (decode_image(encode_png(image)).transpose(2, 0, 1) == image).all()
    with pytest.raises(Undecodable):
        decode_image(encode_png(image)[:40])


def test_the_frame_rate_is_that_of_the_file() -> None:
    frames = np.zeros((6, 3, 16, 16), np.uint8)
    rate, _ = decode_video(io.BytesIO(encode_video(frames, 30000 / 1001, ".mp4")))
    assert Fraction(rate).limit_denominator(1001) == Fraction(30000, 1001)
