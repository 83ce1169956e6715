"""Frames out of any video file, and in and out of the pieces that shards are made of.

A piece is a short run of frames at training resolution, coded as one closed H.264 group of pictures: no container,
no B-frames, 4:4:4 so that colours keep their resolution. All frames here are uint8 `[h, w, 3]`, RGB.
"""

import ctypes
import errno
import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
import scipy.sparse
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter


MAX_PIXELS = 4096 * 4096
"""Frames of more pixels are refused before they are decoded, unless told otherwise: a few bytes of header can ask for gigabytes."""

CONTAINERS = "mov,matroska,avi,mpeg,mpegvideo,mpegts,asf,flv,gif,ogg,yuv4mpegpipe,mxf,m4v,h264,hevc"
PICTURES = "png_pipe,jpeg_pipe,bmp_pipe,tiff_pipe,webp_pipe,webp,ppm_pipe,pgm_pipe,apng,gif"
"""What is opened, by libavformat's names. Left out is all that names other files or addresses: hls, dash, concat, sdp, image2."""

SHORT_OF_HEADER = 0.9
"""A stream that ends with less than this share of the frames of its header was cut off: some demuxers end without an error."""

PIXELS, PRESET, CHROMA_QP_OFFSET = "yuv444p", "veryfast", -3
CODEC = {"name": "h264", "encoder": "libx264", "pixels": PIXELS, "matrix": "bt601", "preset": PRESET, "chroma_qp_offset": CHROMA_QP_OFFSET}
"""How pieces are coded, besides the quantizer. Written to the manifest; a change here makes other shards."""

_FULL_CHROMA = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
_EXACT = Interpolation.BICUBIC | _FULL_CHROMA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_BT601 = Colorspace.ITU601
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_LANCZOS_LOBES = 3
_QUARTER_TURN = 0.01
"""Largest share of skew in a display matrix that still counts as quarter turns."""
_ASPECTS = (Fraction(1, 4), Fraction(4))
"""Pixels narrower or wider than this are taken for damaged metadata."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees, instead of giving it back and having it cleared for the next piece.

    For processes that decode on and on: that took some 4 % of their time at 256 px, as glibc raises these limits by itself,
    but less in some processes than in others. 32 MiB is the most that it takes: larger arrays come from the system each
    time. Other C libraries have no such limits.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 128 * 2**20)


class Undecodable(Exception):
    """A source that gives no usable video; the message is the reason, one line, the same on every run.

    `kind` is undecodable, minimum (it decodes, but is shorter or smaller than is asked for) or limit (it takes more
    than it may).
    """

    kind = "undecodable"


class Unreadable(Undecodable):
    """A source that the storage does not give."""

    kind = "unreadable"


class BelowMinimum(Undecodable):
    """A video that decodes, but is shorter or smaller than is asked for."""

    kind = "minimum"


class OverLimit(Undecodable):
    """A source that takes more than it may."""

    kind = "limit"


class Picture(NamedTuple):
    """A frame on its way: upright, and its pixels `aspect` times as wide as high."""

    image: np.ndarray
    """uint8 `[h, w, 3]`."""
    time: Fraction | None
    """When it is shown, in seconds; None where the file does not say."""
    aspect: Fraction


class Video:
    """An opened video, to be drawn from once: iterating gives its pictures in order of presentation.

    Of several video streams the one with the most pixels is read, cover pictures aside. Frames end at the first damage
    that the decoder reports, since those after it would be wrong; then `damaged` says where and why. Rotation and
    mirroring kept in metadata are applied.

    rate: frames per second by the header, None when it does not say. tick: the unit of its times, in seconds.
    damaged: None, or what is wrong, once the pictures have been drawn. notes: what was changed or ignored, likewise.
    Raises Undecodable when opened, and while drawn when there is no picture at all.
    """

    def __init__(self, file: BinaryIO, max_pixels: int = MAX_PIXELS, containers: str = CONTAINERS) -> None:
        decoder = {"max_pixels": str(2 * max_pixels + 65536), "threads": "1"}  # it counts rows padded to 64 pixels: we count below
        options = {"format_whitelist": containers, "protocol_whitelist": "none", **decoder}
        self._container: Any
        try:
            # An open file and never its name: libavformat would take some names for addresses or patterns.
            self._container = av.open(file, mode="r", options=options)
        except MemoryError:
            raise
        except Exception as error:  # the library raises far more than its own classes, UnicodeDecodeError for one
            raise Undecodable(f"cannot be opened: {_opening_reason(error)}") from error
        self._max_pixels = max_pixels
        self._stream = _largest_stream(self._container)
        self._check_size(self._stream.codec_context)
        self._stream.codec_context.thread_count = 1  # tasks share a machine by whole cores
        self._stream.codec_context.options = decoder
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate: Fraction | None = Fraction(rate) if rate else None
        self.tick = Fraction(self._stream.time_base or 0)
        self.damaged: str | None = None
        self.notes: list[str] = []
        if self._stream.metadata.get("alpha_mode") == "1":  # VP8 and VP9 keep it apart, and it is not even decoded
            self._note("transparency is dropped")

    def _check_size(self, shown: Any) -> None:
        """Of the stream, and of each frame: the size may change within the stream."""
        if shown.width * shown.height > self._max_pixels:
            raise OverLimit(f"is of {shown.width}x{shown.height} pixels; ingest.max_pixels is {self._max_pixels}")

    def _note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)

    def __iter__(self) -> Iterator[Picture]:
        reformatter = VideoReformatter()
        frames = self._container.decode(self._stream)
        count = concealed = 0
        first: Any = None
        with self._container:
            while True:
                try:
                    frame: Any = next(frames, None)
                    picture = None if frame is None else self._picture(frame, reformatter)
                except (MemoryError, OverLimit):
                    raise
                except Exception as error:
                    self._ended(count, concealed, f"breaks off after {count} frames: {_reason(error)}")
                    return
                if picture is None:
                    self._ended(count, concealed, None)
                    return
                concealed += bool(frame.is_corrupt)
                count += 1
                first = first or picture.image.shape
                if picture.image.shape != first:
                    self._note("its frames vary in size")
                yield picture

    def _ended(self, count: int, concealed: int, damage: str | None) -> None:
        if not count:
            raise Undecodable((damage or "gives no frame").replace("breaks off after 0 frames", "gives no frame"))
        promised = self._stream.frames
        if damage is None and count < SHORT_OF_HEADER * promised:
            damage = f"ends after {count} of the {promised} frames of its header"
        hidden = f"{concealed} of its {count} frames are patched up by the decoder" if concealed else None
        self.damaged = "; ".join(part for part in (damage, hidden) if part) or None

    def _picture(self, frame: Any, reformatter: VideoReformatter) -> Picture:
        self._check_size(frame)
        if any(component.is_alpha for component in frame.format.components):
            self._note("transparency is dropped")
        image, aspect = _rgb(frame, reformatter), self._aspect()
        matrix = frame.side_data.get("DISPLAYMATRIX")
        turn = None if matrix is None else _turn(np.frombuffer(matrix, "<i4"))
        if turn is not None:
            image, aspect = _turned(image, turn), 1 / aspect if turn[0] else aspect
        elif matrix is not None:
            self._note("its display matrix is no quarter turn and is ignored")
        time = None if frame.pts is None else Fraction(frame.pts * frame.time_base)
        return Picture(image, time, aspect)

    def _aspect(self) -> Fraction:
        aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        if aspect == 1:
            return aspect
        words = f"its pixels are of {aspect.numerator}:{aspect.denominator}"
        if not _ASPECTS[0] <= aspect <= _ASPECTS[1]:
            self._note(f"{words}, which is ignored")
            return Fraction(1)
        self._note(f"{words}, made square")
        return aspect


def _largest_stream(container: Any) -> Any:
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    streams = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise Undecodable("has no video stream")
    return max(streams, key=lambda s: (s.codec_context.width * s.codec_context.height, -s.index))


def _rgb(frame: Any, reformatter: VideoReformatter, colorspace: Colorspace | None = None) -> np.ndarray:
    if colorspace is None and frame.colorspace == _UNSPECIFIED:
        colorspace = Colorspace.ITU709 if frame.height >= 720 else _BT601  # what players assume
    converted = reformatter.reformat(frame, format="rgb24", src_colorspace=colorspace, interpolation=_EXACT, threads=1)
    return np.asarray(converted.to_ndarray(), dtype=np.uint8)


def _turn(matrix: np.ndarray) -> tuple[bool, bool, bool] | None:
    """What a display matrix asks for: (swap the axes, then flip up and down, flip left and right); None for other than quarter turns.

    matrix: int32 [9], a b u c d v x y w: a pixel at (x, y) is shown at (a x + c y, b x + d y), y downwards (ISO 14496-12).
    """
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) < _QUARTER_TURN * straight:
        return False, d < 0, a < 0
    if max(abs(a), abs(d)) < _QUARTER_TURN * crossed:
        return True, b < 0, c < 0
    return None


def _turned(image: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    swap, upside_down, mirrored = turn
    image = image.swapaxes(0, 1) if swap else image
    return image[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _opening_reason(error: Exception) -> str:
    if isinstance(error, av.FFmpegError) and error.errno == errno.EINVAL:
        return "it is damaged, or in no container that is read (lists of other files are not)"
    return _reason(error)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)  # str() of the library's errors holds the path
    return f"{type(error).__name__}: {' '.join(text.split())[:160]}"


def decode_image(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture in `file` (PNG, JPEG, BMP, TIFF, WebP, PPM, GIF) as `[h, w, 3]`. Raises Undecodable."""
    for picture in Video(file, max_pixels, PICTURES):
        return picture.image
    raise Undecodable("holds no picture")


def resize_square(frame: np.ndarray, resolution: int, aspect: Fraction = Fraction(1)) -> np.ndarray:
    """Centre square of `frame` [h, w, 3] as it is shown, resized to [resolution, resolution, 3].

    aspect: width of a pixel over its height. Shrinking averages over the area that an output pixel covers; enlarging is
    by Lanczos with three lobes. Both are exact to rounding: no intermediate image of lower depth, no detour over
    subsampled chroma.
    """
    height, width = frame.shape[:2]
    side = min(Fraction(height), width * aspect)  # in heights of a pixel
    rows, columns = max(1, round(side)), max(1, round(side / aspect))
    top, left = (height - rows) // 2, (width - columns) // 2
    square = frame[top : top + rows, left : left + columns]
    if rows == columns == resolution:
        return np.ascontiguousarray(square)
    narrow = _weights(rows, resolution) @ square.reshape(rows, columns * 3).astype(np.float32)
    turned = narrow.reshape(resolution, columns, 3).transpose(1, 0, 2).reshape(columns, resolution * 3)
    result = (_weights(columns, resolution) @ turned).reshape(resolution, resolution, 3).transpose(1, 0, 2)
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
