"""Frames out of any video file, and in and out of the pieces that shards are made of.

A piece is a short run of frames at training resolution, coded as one closed H.264 group of pictures: no container,
no B-frames, 4:4:4 so that colours keep their resolution. All frames here are uint8 `[h, w, 3]`, RGB.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
import scipy.sparse
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter


MAX_PIXELS = 4096 * 4096
"""Frames of more pixels are refused before they are decoded: a few bytes of header can ask for gigabytes."""

PIXELS, PRESET, CHROMA_QP_OFFSET = "yuv444p", "veryfast", -3
CODEC = {"name": "h264", "encoder": "libx264", "pixels": PIXELS, "matrix": "bt601", "preset": PRESET, "chroma_qp_offset": CHROMA_QP_OFFSET}
"""How pieces are coded, besides the quantizer. Written to the manifest; a change here makes other shards."""

_FULL_CHROMA = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
_EXACT = Interpolation.BICUBIC | _FULL_CHROMA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_BT601 = Colorspace.ITU601
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_LANCZOS_LOBES = 3


class Undecodable(Exception):
    """A source that gives no usable video; the message is the reason, one line, the same on every run."""


def decode_video(file: str | BinaryIO) -> tuple[float, Iterator[np.ndarray]]:
    """Open a video: its frames per second, and its frames `[h, w, 3]` in order of presentation, upright.

    Of several video streams the one with the most pixels is read. Rotation kept in metadata is applied; pixels
    count as square. Raises Undecodable, also while frames are drawn: a stream that breaks off in the middle is
    refused as a whole, since frames around the damage would be wrong without a sign of it.
    """
    try:
        container = av.open(file, mode="r")
    except Exception as error:  # the library raises far more than its own classes, UnicodeDecodeError for one
        raise Undecodable(f"cannot be opened: {_reason(error)}") from error
    stream = _largest_stream(container)
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise Undecodable("has no frame rate")
    return float(rate), _frames(container, stream)


def _largest_stream(container: Any) -> Any:
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not streams:
        raise Undecodable("has no video stream")
    stream = max(streams, key=lambda s: (s.codec_context.width * s.codec_context.height, -s.index))
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise Undecodable(f"is of {width}x{height} pixels, more than {MAX_PIXELS} in all")
    stream.codec_context.thread_count = 1  # tasks share a machine by whole cores
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change within the stream
    return stream


def _frames(container: Any, stream: Any) -> Iterator[np.ndarray]:
    reformatter = VideoReformatter()
    frames = container.decode(stream)
    count = 0
    with container:
        while True:
            try:
                frame = next(frames, None)
                if frame is None:
                    return
                image = _upright(_rgb(frame, reformatter), frame.rotation)
            except Exception as error:
                raise Undecodable(f"breaks off after {count} frames: {_reason(error)}") from error
            count += 1
            yield image


def _rgb(frame: Any, reformatter: VideoReformatter, colorspace: Colorspace | None = None) -> np.ndarray:
    if colorspace is None and frame.colorspace == _UNSPECIFIED:
        colorspace = Colorspace.ITU709 if frame.height >= 720 else _BT601  # what players assume
    converted = reformatter.reformat(frame, format="rgb24", src_colorspace=colorspace, interpolation=_EXACT, threads=1)
    return np.asarray(converted.to_ndarray(), dtype=np.uint8)


def _upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """Turn counterclockwise by `rotation` degrees; damaged metadata with other than quarter turns is ignored."""
    if abs(rotation) > 360 or rotation % 90:
        return image
    return np.rot90(image, rotation // 90 % 4)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)  # str() of the library's errors holds the path
    return f"{type(error).__name__}: {' '.join(text.split())[:160]}"


def decode_image(data: bytes) -> np.ndarray:
    """The picture in `data` (PNG, JPEG and whatever else libavcodec reads) as `[h, w, 3]`. Raises Undecodable."""
    try:
        container = av.open(io.BytesIO(data), mode="r")
    except Exception as error:
        raise Undecodable(f"cannot be opened: {_reason(error)}") from error
    frame = next(_frames(container, _largest_stream(container)), None)
    if frame is None:
        raise Undecodable("holds no picture")
    return frame


def resize_square(frame: np.ndarray, resolution: int) -> np.ndarray:
    """Centre square crop of `frame` [h, w, 3], resized to [resolution, resolution, 3].

    Shrinking averages over the area that an output pixel covers; enlarging is by Lanczos with three lobes. Both are
    exact to rounding: no intermediate image of lower depth, no detour over subsampled chroma.
    """
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frame[top : top + side, left : left + side]
    if side == resolution:
        return np.ascontiguousarray(square)
    weights = _weights(side, resolution)
    rows = (weights @ square.reshape(side, side * 3).astype(np.float32)).reshape(resolution, side, 3)
    columns = weights @ rows.transpose(1, 0, 2).reshape(side, resolution * 3)
    result = columns.reshape(resolution, resolution, 3).transpose(1, 0, 2)
    return np.ascontiguousarray(np.clip(np.rint(result), 0, 255), dtype=np.uint8)


@functools.lru_cache(maxsize=64)
def _weights(source: int, target: int) -> scipy.sparse.csr_matrix:
    """Rows sum to 1: `[target, source]` weights of one axis."""
    scale = source / target
    pixel = np.arange(source)[None, :]
    position = np.arange(target)[:, None]
    if scale > 1:
        overlap = np.minimum(pixel + 1, (position + 1) * scale) - np.maximum(pixel, position * scale)
        weights = np.clip(overlap, 0, None)
    else:
        weights = np.zeros((target, source))
        centre = (np.arange(target) + 0.5) * scale - 0.5
        for tap in range(1 - _LANCZOS_LOBES, _LANCZOS_LOBES + 1):
            at = np.floor(centre).astype(int) + tap
            weight = np.sinc(centre - at) * np.sinc((centre - at) / _LANCZOS_LOBES)
            np.add.at(weights, (np.arange(target), np.clip(at, 0, source - 1)), weight)  # the edge pixel repeats
    return scipy.sparse.csr_matrix((weights / weights.sum(1, keepdims=True)).astype(np.float32))


def encode_piece(frames: np.ndarray, fps: float, qp: int) -> bytes:
    """Code frames `[t, h, w, 3]` as one closed group of pictures: an Annex B byte stream that opens with an IDR frame.

    The quantizer is constant, psychovisual tricks are off and chroma is coded finer than x264 would in 4:4:4: pieces
    are training data, so what counts is the error, not the looks.
    """
    length, height, width = frames.shape[:3]
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, PIXELS
    codec.framerate = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))  # slower ones would be rounded to 0
    codec.time_base = 1 / codec.framerate
    codec.thread_count = 1
    x264 = f"keyint={length}:min-keyint={length}:scenecut=0:open-gop=0:bframes=0:annexb=1:threads=1:psy=0"
    x264 += f":chroma-qp-offset={CHROMA_QP_OFFSET}:log-level=error"
    codec.options = {"qp": str(qp), "preset": PRESET, "x264-params": x264}
    reformatter = VideoReformatter()
    packets: list[Any] = []
    for index, image in enumerate(frames):
        frame = reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24"),
            format=PIXELS, dst_colorspace=_BT601, dst_color_range=ColorRange.MPEG, interpolation=_EXACT, threads=1,
        )  # fmt: skip
        frame.pts = index
        packets += codec.encode(frame)
    return b"".join(bytes(packet) for packet in packets + codec.encode(None))


def decode_piece(data: bytes, places: Sequence[int] | None = None) -> np.ndarray:
    """The frames `[t, h, w, 3]` of a piece: all, or those at `places`, ascending; what comes after the last is not decoded.

    Raises Undecodable, also when the piece has no frame at one of the places.
    """
    codec: Any = av.CodecContext.create("h264", "r")
    codec.thread_count = 1
    try:
        packets = codec.parse(data) + codec.parse(None)
        if places is not None:
            packets = packets[: max(places) + 1]  # without B-frames a packet is a frame
        frames = [frame for packet in [*packets, None] for frame in codec.decode(packet)]
        if not frames:
            raise Undecodable("holds no frame")
        if places is not None:
            if len(frames) <= max(places):
                raise Undecodable(f"decodes to {len(frames)} frames")
            frames = [frames[place] for place in places]
        return _planar(frames)
    except (av.FFmpegError, ValueError) as error:
        raise Undecodable(_reason(error)) from error


def _planar(frames: list[Any]) -> np.ndarray:
    """Decoded frames as RGB `[t, h, w, 3]`, laid out as `[t, 3, h, w]`: what training wants, without a turn from packed pixels."""
    height, width = frames[0].height, frames[0].width
    reformatter = VideoReformatter()
    images = np.empty((len(frames), 3, height, width), np.uint8)
    for image, frame in zip(images, frames, strict=True):
        if (frame.height, frame.width) != (height, width):
            raise Undecodable("changes its size")
        planes: Any = reformatter.reformat(frame, format="gbrp", src_colorspace=_BT601, interpolation=_EXACT, threads=1).planes
        for channel, plane in enumerate((2, 0, 1)):
            image[channel] = np.frombuffer(planes[plane], np.uint8).reshape(height, -1)[:, :width]
    return images.transpose(0, 2, 3, 1)
