"""Frames as files that people look at: MP4, WebM, GIF, PNG and JPEG, without any library but PyAV.

Pictures here are uint8 `[3, h, w]`, sets of them `[n, 3, h, w]`, videos `[t, 3, h, w]`, RGB.
"""

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import IO, Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from mvgan.config import InputError


SUFFIXES = (".mp4", ".webm", ".gif")
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND


def encode_video(frames: np.ndarray, fps: float, suffix: str) -> bytes:
    """The file that `write_movie` makes of frames uint8 `[t, 3, h, w]`; `suffix` is .mp4, .webm or .gif.

    Raises InputError for another suffix and ValueError for frames of the wrong shape.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 [t, 3, h, w], t >= 1")
    with movie_file(frames, fps, suffix) as path, open(path, "rb") as file:
        return file.read()


@contextmanager
def movie_file(frames: Iterable[np.ndarray], fps: float, suffix: str) -> Iterator[str]:
    """The path of the file that `write_movie` makes of `frames`, until the block ends: memory holds neither frames nor file."""
    # On disk: the MP4 muxer reads its own output to move the index to the front.
    with tempfile.TemporaryDirectory(prefix="mvgan-") as folder:
        path = os.path.join(folder, f"video{suffix}")
        write_movie(path, frames, fps)
        yield path


def write_movie(path: str, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write frames uint8 `[3, h, w]`, at least one, to the local file `path`, in bounded memory; returns their number.

    path: ends in .mp4 (H.264), .webm (VP9) or .gif. MP4 and WebM are 4:2:0, which every browser plays; odd sizes grow by
    a repeated last row or column. An MP4 has its index in front, so that it plays while it loads. Raises InputError for
    another suffix and ValueError when there is no frame.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise InputError(f"cannot write a video as {suffix!r}; give a name that ends in {', '.join(SUFFIXES)}")
    images = (np.ascontiguousarray(frame.transpose(1, 2, 0)) for frame in frames)
    first = next(images, None)
    if first is None:
        raise ValueError("there are no frames; a video has at least one")
    write = _write_gif if suffix == ".gif" else _write_yuv
    return write(path, itertools.chain([first], images), first.shape[:2], fps)


def _write_yuv(path: str, images: Iterator[np.ndarray], size: tuple[int, int], fps: float) -> int:
    odd = (0, size[0] % 2), (0, size[1] % 2)
    count = 0
    with av.open(path, "w", options={"movflags": "faststart"} if path.lower().endswith(".mp4") else {}) as container:
        stream = _yuv_stream(container, path, fps)
        _describe(stream, size[0] + odd[0][1], size[1] + odd[1][1], "yuv420p")
        reformatter = VideoReformatter()
        for frame in _timed((np.pad(image, (*odd, (0, 0)), mode="edge") for image in images), fps):
            yuv = reformatter.reformat(
                frame,
                format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, interpolation=_EXACT, threads=1,
            )  # fmt: skip
            yuv.pts, yuv.time_base = frame.pts, frame.time_base
            container.mux(stream.encode(yuv))
            count += 1
        container.mux(stream.encode(None))
    return count


def _yuv_stream(container: Any, path: str, fps: float) -> Any:
    if path.lower().endswith(".mp4"):
        # Without cpu-independent its AVX-512 code for mbtree now and then gives another file of the same frames.
        params = "log-level=error:cpu-independent=1"
        return container.add_stream("libx264", rate=_rate(fps), options={"crf": "16", "preset": "medium", "x264-params": params})
    return container.add_stream("libvpx-vp9", rate=_rate(fps), options={"crf": "20", "b": "0", "cpu-used": "4", "row-mt": "0"})


def _write_gif(path: str, images: Iterator[np.ndarray], size: tuple[int, int], fps: float) -> int:
    """A GIF needs its palette before its first frame: frames wait in a file on disk, not in memory."""
    with tempfile.TemporaryFile() as spool:
        palette = _palette(_timed(_spooled(images, spool), fps), size, fps)
        count = spool.tell() // (size[0] * size[1] * 3)
        spool.seek(0)
        again = (np.frombuffer(spool.read(size[0] * size[1] * 3), np.uint8).reshape(*size, 3) for _ in range(count))
        with av.open(path, "w", format="gif", options={"loop": "0"}) as container:
            stream: Any = container.add_stream("gif", rate=_rate(fps))
            _describe(stream, *size, "pal8")
            for frame in _mapped(_timed(again, fps), palette, size, fps):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return count


def _spooled(images: Iterator[np.ndarray], spool: IO[bytes]) -> Iterator[np.ndarray]:
    """The images as they are, once each is written to `spool`."""
    for image in images:
        spool.write(image.tobytes())
        yield image


def _palette(frames: Iterator[av.VideoFrame], size: tuple[int, int], fps: float) -> av.VideoFrame:
    """The best 256 colours for all frames, by libavfilter."""
    graph: Any = av.filter.Graph()
    source, sink = _buffer(graph, size, "rgb24", fps), graph.add("buffersink")
    generate = graph.add("palettegen", "reserve_transparent=0")
    source.link_to(generate)
    generate.link_to(sink)
    graph.configure()
    for frame in frames:
        source.push(frame)
    source.push(None)
    return sink.pull()


def _mapped(frames: Iterator[av.VideoFrame], palette: av.VideoFrame, size: tuple[int, int], fps: float) -> Iterator[av.VideoFrame]:
    """The frames in the colours of `palette`, with error diffusion."""
    graph: Any = av.filter.Graph()
    source, sink = _buffer(graph, size, "rgb24", fps), graph.add("buffersink")
    colours = _buffer(graph, (palette.height, palette.width), palette.format.name, fps)
    use = graph.add("paletteuse", "dither=sierra2_4a")
    source.link_to(use, 0, 0)
    colours.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    colours.push(palette)
    colours.push(None)  # no other palette follows
    for frame in itertools.chain(frames, [None]):  # None ends the video
        source.push(frame)
        yield from _ready(sink)


def _ready(sink: Any) -> Iterator[av.VideoFrame]:
    """The frames that a filter graph has finished."""
    while True:
        try:
            frame = sink.pull()
        except (BlockingIOError, EOFError):  # wants more input; has given all
            return
        yield frame


def _buffer(graph: Any, size: tuple[int, int], pixels: str, fps: float) -> Any:
    return graph.add_buffer(width=size[1], height=size[0], format=av.VideoFormat(pixels), time_base=1 / _rate(fps))


def _timed(images: Iterable[np.ndarray], fps: float) -> Iterator[av.VideoFrame]:
    """Images uint8 [h, w, 3] as frames, each with its time."""
    for index, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.pts, frame.time_base = index, 1 / _rate(fps)
        yield frame


def _describe(stream: Any, height: int, width: int, pixels: str) -> None:
    stream.height, stream.width, stream.pix_fmt = height, width, pixels
    stream.codec_context.thread_count = 1  # the same bytes everywhere
    stream.codec_context.time_base = 1 / Fraction(stream.codec_context.framerate)


def _rate(fps: float) -> Fraction:
    return max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))  # slower ones would be rounded to 0


def encode_png(frame: np.ndarray) -> bytes:
    """A picture uint8 `[3, h, w]` as PNG. Raises ValueError for another shape."""
    if frame.ndim != 3 or frame.shape[0] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"picture is {frame.dtype} {frame.shape}; expected uint8 [3, h, w]")
    codec: Any = av.CodecContext.create("png", "w")
    codec.height, codec.width = frame.shape[1:]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1)
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.transpose(1, 2, 0)), "rgb24")
    return b"".join(bytes(packet) for packet in codec.encode(image) + codec.encode(None))


def encode_jpeg(frame: np.ndarray, quantizer: int) -> bytes:
    """A picture uint8 `[3, h, w]` as JPEG with colour at full resolution (4:4:4), the same bytes everywhere.

    quantizer: 1 (best) to 31; libavcodec's, a factor on the tables of MPEG. Raises ValueError for another shape.
    """
    if frame.ndim != 3 or frame.shape[0] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"picture is {frame.dtype} {frame.shape}; expected uint8 [3, h, w]")
    codec: Any = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width = frame.shape[1:]
    codec.pix_fmt, codec.color_range, codec.time_base, codec.thread_count = "yuv444p", ColorRange.JPEG, Fraction(1), 1
    codec.options = {"qmin": str(quantizer), "qmax": str(quantizer), "flags": "+bitexact"}
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.transpose(1, 2, 0)), "rgb24").reformat(
        format="yuv444p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG, interpolation=_EXACT
    )
    return b"".join(bytes(packet) for packet in codec.encode(image) + codec.encode(None))


def decode_png(data: bytes) -> np.ndarray:
    """The picture uint8 `[3, h, w]` of a PNG. Raises av.FFmpegError or ValueError when it is none."""
    codec: Any = av.CodecContext.create("png", "r")
    frames = codec.decode(av.Packet(data)) + codec.decode(None)
    if not frames:
        raise ValueError("the PNG holds no picture")
    return np.ascontiguousarray(frames[0].to_ndarray(format="rgb24").transpose(2, 0, 1))


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Pictures uint8 `[n, 3, h, w]` side by side, row by row, `[3, H, W]`; places left over are black."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, channels, height, width), np.uint8)
    cells[:count] = images
    return cells.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def upscale(images: np.ndarray, factor: int) -> np.ndarray:
    """Each pixel of `[..., h, w]` as a block of `factor` by `factor`."""
    return images.repeat(factor, axis=-2).repeat(factor, axis=-1)
