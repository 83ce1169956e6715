"""One source to pieces: what is done in the process that may be killed. Loads neither torch nor Ray, so that it starts fast.

`settings` are those of a shard set (`mvgan.data.ingest.shard_settings`), a plain dictionary.
"""

import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from mvgan.data.decode import PICTURES, BelowMinimum, OverLimit, Picture, Undecodable, Video, encode_piece, resize_square


VARIABLE = Fraction(1, 10)
"""Rates vary when durations of frames differ by more than this share of their mean, and by more than two ticks of the clock."""
PLAUSIBLE_FPS = (Fraction(1, 10), Fraction(240))
"""Rates beyond are believed only if the time stamps say so too."""
UNKNOWN_FPS = Fraction(25)
"""Written into pieces of a video whose rate is not known before its end. Nothing reads it there."""

Emit = Callable[[bytes, int], None]
"""Takes a piece and its number of frames."""


class Clock:
    """The times at which the frames of a source are shown, as they pass by."""

    def __init__(self, tick: Fraction) -> None:
        self.tick = tick
        self.count = 0
        self.faults = 0
        """Frames without a time, or not after the one before."""
        self._first = self._last = Fraction(0)
        self._durations: set[Fraction] = set()

    def add(self, time: Fraction | None) -> None:
        """The next frame is shown at `time`, in seconds."""
        self.count += 1
        if time is None:
            self.faults += 1
        elif self.count == 1:
            self._first = self._last = time
        else:
            self.faults += time <= self._last
            self._durations.add(time - self._last)
            self._last = time

    @property
    def rate(self) -> Fraction | None:
        """Frames per second by the times alone, None when these do not increase."""
        return (self.count - 1) / (self._last - self._first) if self.count > 1 and not self.faults else None

    def variable(self) -> dict[str, Any] | None:
        """Shortest and longest duration of a frame and how many there are, when they differ by more than a clock's rounding."""
        rate = self.rate
        if rate is None or not self._durations:
            return None
        shortest, longest = min(self._durations), max(self._durations)
        if longest - shortest <= max(VARIABLE / rate, 2 * self.tick):
            return None
        return {
            "min_ms": round(float(1000 * shortest), 3),
            "max_ms": round(float(1000 * longest), 3),
            "distinct": len(self._durations),
        }


def encode_video(file: BinaryIO, settings: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Code the video in `file`; each piece goes to `emit`.

    Returns its facts for the manifest: num_frames, fps, width and height (of the first picture, upright) and, where
    there is something to say, damaged, notes and variable_rate. Raises Undecodable.
    """
    video = Video(file, settings["max_pixels"])
    clock = Clock(video.tick)
    pictures = _timed(video, clock, settings["max_frames"])
    rate = wanted = _wanted_rate(settings)
    if wanted is not None:
        pictures = resampled(pictures, video.rate, wanted, settings["max_frames"])
    facts = _encode(pictures, wanted or video.rate or UNKNOWN_FPS, settings, emit, lambda: video.damaged)
    notes = list(video.notes)
    if clock.faults:
        notes.append(f"{clock.faults} of its {clock.count} time stamps are missing or do not increase")
    if rate is None:
        rate = believed_rate(video.rate, clock, notes)
    else:
        notes.append(f"resampled from {float(video.rate or clock.rate or 0):.6g} frames a second")
    return {**facts, "fps": float(rate), **_said(damaged=video.damaged, notes=notes, variable_rate=clock.variable())}


def _wanted_rate(settings: dict[str, Any]) -> Fraction | None:
    wanted = settings["resample_fps"]
    return None if wanted is None else Fraction(wanted).limit_denominator(1001)


def _said(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def encode_folder(files: Callable[[int], BinaryIO], names: list[str], settings: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Code numbered pictures, of which `files` opens one after the other, as `encode_video` does a video."""
    given = Fraction(settings["fps"])
    notes: list[str] = []
    damage: list[str] = []

    def pictures() -> Iterator[Picture]:
        for index, name in enumerate(names):
            try:
                video = Video(files(index), settings["max_pixels"], PICTURES)
                drawn = list(itertools.islice(video, 1))
            except OverLimit:
                raise
            except Undecodable as error:
                if not index:
                    raise Undecodable(f"frame {name} {error}") from error
                damage.append(f"breaks off after {index} frames: frame {name} {error}")
                return
            notes.extend(note for note in video.notes if note not in notes)
            yield drawn[0]._replace(time=index / given)

    rate = wanted = _wanted_rate(settings)
    drawn = pictures() if wanted is None else resampled(pictures(), given, wanted, settings["max_frames"])
    facts = _encode(drawn, rate or given, settings, emit, lambda: damage[0] if damage else None)
    return {**facts, "fps": float(rate or given), **_said(damaged=damage[0] if damage else None, notes=notes)}


def _encode(
    pictures: Iterator[Picture], rate: Fraction, settings: dict[str, Any], emit: Emit, damage: Callable[[], str | None]
) -> dict[str, Any]:
    piece: list[np.ndarray] = []
    size, count = (0, 0), 0
    for picture in pictures:
        if not count:
            size = picture.image.shape[:2]
            _check_size(picture, settings["min_size"])
        piece.append(resize_square(picture.image, settings["resolution"], picture.aspect))
        count += 1
        if count > settings["max_frames"]:
            raise OverLimit(f"has more than {settings['max_frames']} frames (ingest.max_frames)")
        if len(piece) == settings["frames_per_piece"]:
            emit(encode_piece(np.stack(piece), float(rate), settings["qp"]), len(piece))
            piece.clear()
    if count < settings["min_frames"]:
        words = f"has {count} frame{'' if count == 1 else 's'}; ingest.min_frames is {settings['min_frames']}"
        raise BelowMinimum("; ".join(part for part in (words, damage()) if part))
    if piece:
        emit(encode_piece(np.stack(piece), float(rate), settings["qp"]), len(piece))
    return {"num_frames": count, "width": size[1], "height": size[0]}


def _check_size(picture: Picture, least: int) -> None:
    height, width = picture.image.shape[0], round(picture.image.shape[1] * picture.aspect)
    if min(height, width) < least:
        raise BelowMinimum(f"is of {width}x{height} pixels; ingest.min_size is {least}")


def _timed(video: Video, clock: Clock, most: int) -> Iterator[Picture]:
    for picture in video:
        clock.add(picture.time)
        if clock.count > most:
            raise OverLimit(f"has more than {most} frames (ingest.max_frames)")
        yield picture


def believed_rate(header: Fraction | None, clock: Clock, notes: list[str]) -> Fraction:
    """The rate of the header, unless it is absurd and the time stamps say otherwise; what is odd about it goes to `notes`.

    Raises Undecodable when neither says anything.
    """
    measured = clock.rate
    if header is None:
        if measured is None:
            raise Undecodable("has no frame rate")
        return measured
    if PLAUSIBLE_FPS[0] <= header <= PLAUSIBLE_FPS[1]:
        return header
    if measured is not None and not header / 2 <= measured <= header * 2:
        notes.append(f"claims {float(header):.6g} frames a second; taken for the {float(measured):.6g} of its time stamps")
        return measured
    notes.append(f"claims {float(header):.6g} frames a second")
    return header


def resampled(pictures: Iterator[Picture], rate: Fraction | None, wanted: Fraction, most: int) -> Iterator[Picture]:
    """`pictures` at a constant rate: at each moment the one whose time is nearest, the earlier of two as near.

    The moments are the time of the first picture and every 1 / `wanted` seconds after it, up to the time of the last.
    A time that is missing, or not after the one before, is taken to be 1 / `rate` later than that.
    Raises Undecodable when there is neither, and OverLimit for more than `most` pictures.
    """
    before: Picture | None = None
    start = last = Fraction(0)
    made = 0
    for picture in pictures:
        time = picture.time
        if before is None:
            start = last = time or Fraction(0)
            before = picture
            continue
        if time is None or time <= last:
            if rate is None:
                raise Undecodable("has no frame rate and no time stamps")
            time = last + 1 / rate
        due = (((last + time) / 2 - start) * wanted).__floor__() + 1  # moments up to the middle belong to the earlier one
        _check_count(due, most)
        for moment in range(made, due):
            yield before._replace(time=start + moment / wanted)
        made = max(made, due)
        before, last = picture, time
    if before is not None:
        due = ((last - start) * wanted).__floor__() + 1
        _check_count(due, most)
        for moment in range(made, due):
            yield before._replace(time=start + moment / wanted)


def _check_count(due: int, most: int) -> None:
    if due > most:
        raise OverLimit(f"has more than {most} frames when resampled (ingest.max_frames)")
