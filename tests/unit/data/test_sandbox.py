"""The decoding process: what kills it costs one source; it gets files, no names and no credentials."""

import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import pytest

from mvgan.config import Ingest, Run
from mvgan.data import clips
from mvgan.data import sandbox as sandbox_module
from mvgan.data.decode import OverLimit, Undecodable
from mvgan.data.ingest import shard_settings
from mvgan.data.sandbox import Sandbox, borrowed
from mvgan.media import encode_png, encode_video


def settings(**ingest: Any) -> dict[str, Any]:
    return shard_settings(Run(resolution=16, ingest=Ingest(**ingest)))


def on_disk(data: bytes) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(data)
    file.seek(0)
    return file  # type: ignore[return-value, unused-ignore]


def clip(num_frames: int = 20) -> bytes:
    frames = np.random.default_rng(num_frames).integers(0, 256, (num_frames, 3, 32, 32), dtype=np.uint8)
    return encode_video(frames, 25, ".mp4")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


def encode(sandbox: Sandbox, data: bytes, before: Callable[[], object] = lambda: None, **ingest: Any) -> tuple[dict[str, Any], Any]:
    """`before` runs when the process has asked for its file, and waits for it."""

    def open_file(number: int) -> BinaryIO:
        before()
        return on_disk(data)

    return sandbox.encode(["a.mp4"], False, settings(**ingest), open_file)


def test_it_gives_what_the_plain_function_gives(sandbox: Sandbox) -> None:
    data, expected = clip(37), []
    facts = clips.encode_video(io.BytesIO(data), settings(), lambda piece, length: expected.append((piece, length)))
    starts = sandbox.num_starts
    for _ in range(2):
        assert encode(sandbox, data) == (facts, expected)
    assert sandbox.num_starts <= starts + 1, "the process is kept"


def test_a_folder_is_asked_for_picture_by_picture(sandbox: Sandbox) -> None:
    pictures = [encode_png(np.full((3, 20, 20), 5 * i, np.uint8)) for i in range(40)]
    names, asked, expected = [f"{i}.png" for i in range(40)], [], []

    def open_file(number: int) -> BinaryIO:
        asked.append(number)
        return on_disk(pictures[number])

    found = sandbox.encode(names, True, settings(fps=10.0), open_file)
    in_process = iter(pictures)
    facts = clips.encode_folder(
        lambda number: io.BytesIO(next(in_process)), names, settings(fps=10.0), lambda piece, length: expected.append((piece, length))
    )
    assert found == (facts, expected) and asked == list(range(40))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_costs_one_source(sandbox: Sandbox, number: signal.Signals) -> None:
    encode(sandbox, clip())
    starts = sandbox.num_starts
    with pytest.raises(Undecodable, match=rf"crashes the decoder \({number.name}\)"):
        encode(sandbox, clip(), lambda: os.kill(sandbox.pid or 0, number))
    assert encode(sandbox, clip())[0]["num_frames"] == 20 and sandbox.num_starts == starts + 1


def test_a_process_that_died_while_idle_is_no_fault_of_the_next_source(sandbox: Sandbox) -> None:
    encode(sandbox, clip())
    os.kill(sandbox.pid or 0, signal.SIGKILL)
    os.waitid(os.P_PID, sandbox.pid or 0, os.WEXITED | os.WNOWAIT)
    assert encode(sandbox, clip())[0]["num_frames"] == 20


def test_a_process_that_stands_still_is_killed_in_time(sandbox: Sandbox) -> None:
    encode(sandbox, clip())
    pid, start = sandbox.pid or 0, time.monotonic()
    with pytest.raises(OverLimit, match=r"takes more than 0\.5 s \(ingest\.max_seconds\)"):
        encode(sandbox, clip(), lambda: os.kill(pid, signal.SIGSTOP), max_seconds=0.5)
    assert 0.5 <= time.monotonic() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_file_that_never_ends_is_given_up(sandbox: Sandbox) -> None:
    """A pipe without a writer's word: the decoder waits within a read."""
    reading, writing = os.pipe()
    with pytest.raises(OverLimit, match="takes more than 1 s"), os.fdopen(writing, "wb"):
        sandbox.encode(["a.mp4"], False, settings(max_seconds=1.0), lambda number: os.fdopen(reading, "rb"))
    assert encode(sandbox, clip())[0]["num_frames"] == 20


def test_time_to_fetch_the_file_is_not_counted(sandbox: Sandbox) -> None:
    encode(sandbox, clip())
    assert encode(sandbox, clip(), lambda: time.sleep(2.5), max_seconds=2)[0]["num_frames"] == 20


def bomb(side: int) -> bytes:
    """A few kilobytes that ask for frames of side x side pixels."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream: Any = output.add_stream("libx264", rate=25, options={"preset": "ultrafast", "x264-params": "threads=1:log-level=error"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def test_a_bomb_is_refused_by_its_header_and_by_its_memory(sandbox: Sandbox) -> None:
    data = bomb(8192)
    assert len(data) < 1 << 20
    pid = encode(sandbox, clip()) and sandbox.pid
    with pytest.raises(OverLimit, match=r"8192x8192 pixels; ingest\.max_pixels is 16777216"):
        encode(sandbox, data)
    assert sandbox.pid == pid, "the header was enough"
    with pytest.raises(OverLimit, match=r"takes more than 300 MB \(ingest\.memory_mb\)"):
        encode(sandbox, data, max_pixels=1 << 27, memory_mb=300)
    assert encode(sandbox, clip(), memory_mb=300)[0]["num_frames"] == 20 and sandbox.pid != pid


def test_coded_frames_are_bounded_too(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept outside of the process: frames that say nothing new would fill the memory of the one that started it."""
    _, pieces = encode(sandbox, clip(40))
    monkeypatch.setattr(sandbox_module, "MB", 1)  # the limit is in bytes here, but not in the process
    size = sum(len(data) for data, _ in pieces)
    assert len(encode(sandbox, clip(40), memory_mb=size)[1]) == len(pieces)
    with pytest.raises(OverLimit, match=rf"takes more than {size - 1} MB when coded \(ingest.memory_mb\)"):
        encode(sandbox, clip(40), memory_mb=size - 1)


def test_its_environment_holds_no_credentials(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-5f1c")
    monkeypatch.setenv("SOME_TOKEN", "canary-5f1c")
    encode(sandbox, clip())
    assert b"canary-5f1c" not in Path(f"/proc/{sandbox.pid}/environ").read_bytes()


def test_it_loads_neither_torch_nor_ray(sandbox: Sandbox) -> None:
    encode(sandbox, clip())
    maps = Path(f"/proc/{sandbox.pid}/maps").read_text()
    assert "/av/" in maps and "/torch/" not in maps and "/ray/" not in maps


def test_what_the_store_raises_comes_through(sandbox: Sandbox) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "a.mp4")

    with pytest.raises(PermissionError):
        encode(sandbox, clip(), refuse)
    assert encode(sandbox, clip())[0]["num_frames"] == 20


def test_a_mistake_of_our_own_is_no_fault_of_the_source(sandbox: Sandbox) -> None:
    wrong = settings()
    del wrong["qp"]
    with pytest.raises(RuntimeError, match="KeyError: 'qp'"):
        sandbox.encode(["a.mp4"], False, wrong, lambda number: on_disk(clip()))


def test_a_process_that_does_not_start_is_an_error() -> None:
    broken = Sandbox([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match=r"does not start: .*status 3"):
        encode(broken, clip())


def test_it_ends_with_the_one_that_started_it() -> None:
    """A fork starts the process and is killed: nobody is left to end it."""
    reading, writing = os.pipe()
    fork = os.fork()
    if not fork:
        made = Sandbox()
        encode(made, clip())
        os.write(writing, str(made.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(fork, 0)
    pid = int(os.read(reading, 20))
    for file in (reading, writing):
        os.close(file)
    until = time.monotonic() + 20

    def lives() -> bool:
        with suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    while lives():
        assert time.monotonic() < until, "the process is still there"
        time.sleep(0.05)


def test_borrowed_processes_are_given_back() -> None:
    with borrowed() as first:
        encode(first, clip())
        with borrowed() as second:
            assert second is not first
    with borrowed() as third:
        assert third in (first, second)
