"""One source to pieces: rates, resampling, limits and folders, against brute force and files whose time stamps are known."""

import io
import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mvgan.config import Ingest, Run
from mvgan.data.clips import Clock, believed_rate, encode_folder, encode_video, resampled
from mvgan.data.decode import BelowMinimum, OverLimit, Picture, Undecodable, decode_piece
from mvgan.data.ingest import shard_settings
from mvgan.media import encode_png


REAL = pytest.mark.skipif("MVGAN_TEST_DATA" not in os.environ, reason="MVGAN_TEST_DATA is not set")


def settings(**ingest: Any) -> dict[str, Any]:
    return shard_settings(Run(resolution=16, ingest=Ingest(**ingest)))


def timed_video(times_ms: list[int], *, rate: int = 25, container: str = "matroska", size: int = 32) -> bytes:
    """A lossless video with frames at the given times; frame i is of brightness 4 i."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream("ffv1", rate=rate)
        stream.height = stream.width = size
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = "bgr0", Fraction(1, 1000), Fraction(1, 1000)
        for index, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 4 * index, np.uint8), "rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def coded(data: bytes, **ingest: Any) -> tuple[dict[str, Any], list[int]]:
    """The facts of a video, and which of its frames came out (by their brightness)."""
    pieces: list[bytes] = []
    facts = encode_video(io.BytesIO(data), settings(**ingest), lambda piece, length: pieces.append(piece))
    brightness = [float(frame.mean()) for piece in pieces for frame in decode_piece(piece)]
    return facts, [round(value / 4) for value in brightness]


def nearest(times: list[Fraction], rate: Fraction) -> list[int]:
    """Brute force: at every moment, the first of the frames that are nearest in time."""
    moments = [times[0] + Fraction(k) / rate for k in range(int((times[-1] - times[0]) * rate) + 1)]
    return [min(range(len(times)), key=lambda i: (abs(times[i] - moment), i)) for moment in moments]


IRREGULAR = [100, 350, 370, 403, 503, 523, 543, 576, 826, 1076, 1109, 1149, 1399, 1439, 1689, 1789, 2039, 2079, 2329, 2369]


@pytest.mark.parametrize("rate", [1, 7, 25, 29.97, 100])
def test_resampling_takes_the_frame_that_is_nearest(rate: float) -> None:
    facts, shown = coded(timed_video(IRREGULAR), resample_fps=rate)
    wanted = Fraction(rate).limit_denominator(1001)
    assert shown == nearest([Fraction(time, 1000) for time in IRREGULAR], wanted)
    assert facts["fps"] == float(wanted) and facts["num_frames"] == len(shown)
    assert facts["variable_rate"] == {"min_ms": 20.0, "max_ms": 250.0, "distinct": len(set(np.diff(IRREGULAR)))}


def test_resampling_to_its_own_rate_changes_nothing() -> None:
    data = timed_video([40 * i for i in range(30)])
    assert coded(data, resample_fps=25)[1] == coded(data)[1] == list(range(30))
    assert "variable_rate" not in coded(data)[0] and "notes" not in coded(data)[0]


def test_random_times_are_resampled_as_brute_force_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        steps = rng.integers(1, 30, rng.integers(1, 12)).tolist()
        times = [Fraction(sum(steps[:i]), 7) for i in range(len(steps) + 1)]
        wanted = Fraction(int(rng.integers(1, 40)), int(rng.integers(1, 9)))
        pictures = (Picture(np.full((1, 1, 3), i, np.uint8), time, Fraction(1)) for i, time in enumerate(times))
        assert [int(p.image[0, 0, 0]) for p in resampled(pictures, None, wanted, 10**6)] == nearest(times, wanted)


def test_times_that_are_missing_or_go_back_count_as_one_frame_later() -> None:
    times = [None, Fraction(1, 25), Fraction(0), None, Fraction(4, 25)]
    pictures = [Picture(np.full((1, 1, 3), i, np.uint8), time, Fraction(1)) for i, time in enumerate(times)]
    assert [int(p.image[0, 0, 0]) for p in resampled(iter(pictures), Fraction(25), Fraction(50), 99)] == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    with pytest.raises(Undecodable, match="no frame rate"):
        list(resampled(iter(pictures), None, Fraction(50), 99))


def test_jitter_of_a_coarse_clock_is_no_variable_rate() -> None:
    """30 frames a second in whole milliseconds: 33, 33, 34, ..."""
    assert "variable_rate" not in coded(timed_video([round(1000 * i / 30) for i in range(40)], rate=30))[0]


@pytest.mark.parametrize(
    ("rate", "step_ms", "fps", "note"),
    [(1000, 40, 25, "claims 1000 frames a second; taken for the 25 of its time stamps"), (1000, 1, 1000, "claims 1000 frames a second")],
)
def test_an_absurd_rate_is_checked_against_the_time_stamps(rate: int, step_ms: int, fps: float, note: str) -> None:
    clock = Clock(Fraction(1, 1000))
    for index in range(3):
        clock.add(Fraction(index * step_ms, 1000))
    notes: list[str] = []
    assert believed_rate(Fraction(rate), clock, notes) == fps and notes == [note]


def test_three_frames_at_a_thousand_a_second_are_taken_and_said() -> None:
    facts, shown = coded(timed_video([0, 1, 2], rate=1000))
    assert (shown, facts["fps"], facts["notes"]) == ([0, 1, 2], 1000.0, ["claims 1000 frames a second"])


def test_a_gap_of_years_does_not_fill_the_disk() -> None:
    with pytest.raises(OverLimit, match=r"more than 1000 frames when resampled \(ingest\.max_frames\)"):
        coded(timed_video([0, 40, 2_000_000_000]), resample_fps=25, max_frames=1000)


def test_minimums_and_limits_say_their_setting() -> None:
    data = timed_video([40 * i for i in range(12)])
    for limits, error, words in (
        ({"max_frames": 11}, OverLimit, r"more than 11 frames \(ingest\.max_frames\)"),
        ({"max_pixels": 1023}, OverLimit, r"32x32 pixels; ingest\.max_pixels is 1023"),
        ({"min_frames": 13}, BelowMinimum, r"has 12 frames; ingest\.min_frames is 13"),
        ({"min_size": 33}, BelowMinimum, r"32x32 pixels; ingest\.min_size is 33"),
    ):
        with pytest.raises(error, match=words):
            coded(data, **limits)
    assert coded(data, max_frames=12, max_pixels=1024, min_frames=12, min_size=32)[0]["num_frames"] == 12


@REAL
def test_variable_rates_of_real_files() -> None:
    """Reference: expected.json, and the true times of the file that was made with irregular ones."""
    odd = Path(os.environ["MVGAN_TEST_DATA"], "odd")
    known = json.loads((odd / "expected.json").read_text())["files"]
    for name in ("derived/vfr.mp4", "derived/gif_named.mp4", "real/imagegif_muybridge_vfr.gif", "real/moviepy_no_duration.webm"):
        facts, _ = coded((odd / name).read_bytes())
        spread = facts["variable_rate"]
        assert spread["distinct"] == known[name]["dt_distinct"]
        assert (spread["min_ms"], spread["max_ms"]) == (1000 * known[name]["dt_min_s"], 1000 * known[name]["dt_max_s"])
    for name in ("real/moviepy_transparent.webm", "real/imageio_realshort.mp4", "real/torchcodec_av1.mkv"):
        assert "variable_rate" not in coded((odd / name).read_bytes())[0], name
    facts, shown = coded((odd / "derived" / "vfr.mp4").read_bytes(), resample_fps=25)
    times = [Fraction(time, 1000) for time in json.loads((odd / "derived" / "vfr_pts_ms.json").read_text())]
    assert len(shown) == len(nearest(times, Fraction(25)))


@REAL
def test_time_stamps_that_go_back_are_said() -> None:
    """Reference: expected.json counts 54 steps that do not increase."""
    odd = Path(os.environ["MVGAN_TEST_DATA"], "odd")
    facts, _ = coded((odd / "real" / "mmaction2_xvid_bframes.avi").read_bytes())
    assert facts["notes"] == ["54 of its 164 time stamps are missing or do not increase"] and facts["fps"] == 25


def folder_files(pictures: list[bytes]) -> Any:
    opened: Iterator[bytes] = iter(pictures)
    return lambda number: io.BytesIO(next(opened))


def test_a_folder_is_taken_up_to_the_first_picture_that_fails() -> None:
    pictures = [encode_png(np.full((3, 20, 20), 4 * i, np.uint8)) for i in range(6)]
    pictures[4] = pictures[4][:40]
    names = [f"f{i}.png" for i in range(6)]
    pieces: list[int] = []
    facts = encode_folder(folder_files(pictures), names, settings(fps=10.0), lambda piece, length: pieces.append(length))
    assert (facts["num_frames"], facts["fps"], pieces) == (4, 10.0, [4])
    assert facts["damaged"].startswith("breaks off after 4 frames: frame f4.png ")
    with pytest.raises(Undecodable, match=r"frame f4\.png"):
        encode_folder(folder_files(pictures[4:]), names[4:], settings(fps=10.0), lambda piece, length: None)
