"""Talking cartoon faces with known factors: a small video set that every part of the project can be tried on.

Content factors are fixed within a video (face, skin, hair, shirt, background); motion factors are smooth functions
of time (mouth, blinking, gaze, place and tilt of the head). Coordinates run from -1 to 1, x to the right and y down.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvgan.config import InputError
from mvgan.media import encode_video


FPS = 25.0
FACTORS = "factors.json"
FORMAT_VERSION = 1
VIEW = 0.9
"""Half the width of the picture in the units of the drawing."""
CHUNK = 16
"""Frames painted at once: their arrays stay in the processor's cache."""

SKINS = ((255, 219, 190), (240, 190, 150), (214, 154, 110), (166, 108, 70), (112, 70, 46))
HAIRS = ((32, 26, 30), (92, 54, 30), (160, 92, 36), (236, 196, 88), (196, 66, 32), (150, 150, 160), (98, 60, 150))
SHIRTS = ((204, 46, 52), (40, 92, 190), (46, 146, 82), (240, 176, 36), (140, 66, 160), (236, 236, 232), (44, 48, 60))
BACKGROUNDS = ((120, 196, 232), (250, 214, 130), (170, 216, 160), (238, 170, 170), (186, 176, 226), (228, 228, 220), (96, 130, 160))
HAIR_SHAPES = ("short", "long", "bun", "curly", "fringe")

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Content:
    """What stays the same within a video. Lengths are half axes, colours RGB from 0 to 255."""

    face_width: float
    face_height: float
    eye_distance: float
    skin: Colour
    hair: Colour
    hair_shape: str
    shirt: Colour
    background: Colour
    glow: Colour


@dataclass(frozen=True)
class Motion:
    """What moves: `[num_frames]` each. `mouth` and `eyes` from 0 (shut) to 1 (open), `tilt` in radians, the rest offsets."""

    mouth: np.ndarray
    eyes: np.ndarray
    gaze: np.ndarray
    head_x: np.ndarray
    head_y: np.ndarray
    tilt: np.ndarray


def draw_content(rng: np.random.Generator) -> Content:
    """Content factors, drawn independently."""

    def near(palette: tuple[tuple[int, int, int], ...], spread: float = 10) -> Colour:
        colour = np.array(palette[rng.integers(len(palette))]) + rng.uniform(-spread, spread, 3)
        red, green, blue = np.clip(colour, 0, 255).round().tolist()
        return red, green, blue

    return Content(
        face_width=round(float(rng.uniform(0.42, 0.53)), 4),
        face_height=round(float(rng.uniform(0.55, 0.66)), 4),
        eye_distance=round(float(rng.uniform(0.18, 0.22)), 4),
        skin=near(SKINS, 6),
        hair=near(HAIRS, 8),
        hair_shape=HAIR_SHAPES[rng.integers(len(HAIR_SHAPES))],
        shirt=near(SHIRTS),
        background=near(BACKGROUNDS),
        glow=near(BACKGROUNDS),
    )


def draw_motion(rng: np.random.Generator, num_frames: int) -> Motion:
    """Motion factors over `num_frames` frames: sums of a few sines of at most 1.4 Hz, and blinks of 0.2 s."""
    time = np.arange(num_frames) / FPS

    def wave(low: float, high: float) -> np.ndarray:
        frequencies, phases, weights = rng.uniform(low, high, 3), rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.5, 1, 3)
        waves = np.sin(2 * np.pi * frequencies[:, None] * time + phases[:, None])
        return np.asarray(weights @ waves / np.sqrt((weights**2).sum()) / np.sqrt(2))

    blinks = np.arange(rng.uniform(0, 2), num_frames / FPS + 1, rng.uniform(1.2, 2.2))
    shut = np.exp(-0.5 * ((time[:, None] - blinks) / 0.07) ** 2).sum(1)
    return Motion(
        mouth=np.clip(0.5 + 0.75 * wave(0.6, 1.4), 0, 1),
        eyes=1 - np.clip(shut, 0, 1),
        gaze=0.055 * np.clip(1.5 * wave(0.2, 0.6), -1, 1),
        head_x=0.05 * wave(0.3, 0.6),
        head_y=0.024 * wave(0.3, 0.6),
        tilt=0.06 * wave(0.3, 0.6),
    )


def render_clip(content: Content, motion: Motion, size: int) -> np.ndarray:
    """The clip as frames uint8 `[t, 3, size, size]`, edges smooth to a pixel."""
    frames = len(motion.mouth)
    chunks = [Motion(**{name: values[at : at + CHUNK] for name, values in vars(motion).items()}) for at in range(0, frames, CHUNK)]
    return np.concatenate([_paint(content, chunk, size) for chunk in chunks])


class _Canvas:
    """Frames `[t, 3, h, w]` in the making, and shapes to fill. Positions `x`, `y` are `[t, h, w]`, in half image widths."""

    def __init__(self, frames: int, size: int) -> None:
        self.pixel = 2 * VIEW / size
        self.image = np.zeros((frames, 3, size, size), np.float32)
        axis = ((np.arange(size) + 0.5) * self.pixel - VIEW).astype(np.float32)
        self.x, self.y = np.broadcast_to(axis, (frames, size, size)), np.broadcast_to(axis[:, None], (frames, size, size))

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Share of each pixel inside, from the signed distance to the outline (negative inside)."""
        return np.asarray(np.clip(0.5 - distance / self.pixel, 0, 1))

    def fill(self, cover: np.ndarray, colour: Colour) -> None:
        """Paint `colour` where `cover` is 1, mixed in between; only the rectangle that it touches is worked on."""
        rows, columns = np.flatnonzero(cover.any((0, 2))), np.flatnonzero(cover.any((0, 1)))
        if not len(rows):
            return
        area = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part = cover[area]
        for channel in range(3):
            plane = self.image[:, channel][area]
            plane += part * (np.float32(colour[channel]) - plane)


def _at(value: Any) -> Any:
    """A number, or one per frame `[t]`, ready to meet `[t, h, w]`."""
    return np.float32(value) if np.ndim(value) == 0 else np.asarray(value, np.float32)[:, None, None]


def _ellipse(x: np.ndarray, y: np.ndarray, cx: Any, cy: Any, rx: Any, ry: Any) -> np.ndarray:
    """Signed distance to an ellipse, to first order at its outline."""
    rx, ry = _at(rx), _at(ry)
    u, v = (x - _at(cx)) / rx, (y - _at(cy)) / ry
    norm = np.sqrt(u * u + v * v) + np.float32(1e-6)
    slope = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) + np.float32(1e-6)
    return np.asarray(norm * (norm - 1) / slope)


def _box(x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float, corner: float) -> np.ndarray:
    """Signed distance to a box with round corners."""
    u, v = np.abs(x - _at(cx)) - _at(rx - corner), np.abs(y - _at(cy)) - _at(ry - corner)
    outside = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(u, v), 0) - np.float32(corner))


def _shade(colour: Colour, factor: float) -> Colour:
    """Darker below a `factor` of 1, lighter above."""
    if factor <= 1:
        return colour[0] * factor, colour[1] * factor, colour[2] * factor
    light = factor - 1
    return colour[0] + (255 - colour[0]) * light, colour[1] + (255 - colour[1]) * light, colour[2] + (255 - colour[2]) * light


def _paint(content: Content, motion: Motion, size: int) -> np.ndarray:
    canvas = _Canvas(len(motion.mouth), size)
    _paint_background(canvas, content)
    # The head turns about a point below the chin; the body follows a little.
    dx, dy = canvas.x - _at(motion.head_x), canvas.y - _at(motion.head_y) - np.float32(0.5)
    cosine, sine = np.cos(_at(motion.tilt)), np.sin(_at(motion.tilt))
    x, y = cosine * dx + sine * dy, cosine * dy - sine * dx + np.float32(0.5)
    body_x, body_y = canvas.x - _at(0.35 * motion.head_x), canvas.y - _at(0.35 * motion.head_y)
    _paint_back_hair(canvas, content, x, y)
    _paint_body(canvas, content, body_x, body_y, x, y)
    _paint_face(canvas, content, x, y)
    _paint_eyes(canvas, content, motion, x, y)
    _paint_mouth(canvas, content, motion, x, y)
    _paint_front_hair(canvas, content, x, y)
    return np.clip(np.rint(canvas.image), 0, 255).astype(np.uint8)


def _paint_background(canvas: _Canvas, content: Content) -> None:
    everywhere = np.ones_like(canvas.x)
    canvas.fill(everywhere, content.background)
    distance = _ellipse(canvas.x, canvas.y, -0.75, -0.75, 0.9, 0.9)
    canvas.fill(np.clip(-1.2 * distance, 0, 0.9).astype(np.float32), content.glow)


def _paint_body(canvas: _Canvas, content: Content, body_x: np.ndarray, body_y: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    canvas.fill(canvas.cover(_ellipse(body_x, body_y, 0, 1.12, 0.84, 0.46)), content.shirt)
    canvas.fill(canvas.cover(_ellipse(body_x, body_y, 0, 0.72, 0.27, 0.13)), _shade(content.shirt, 0.72))
    canvas.fill(canvas.cover(_box(x, y, 0, 0.55, 0.16, 0.24, 0.1)), _shade(content.skin, 0.8))


def _paint_back_hair(canvas: _Canvas, content: Content, x: np.ndarray, y: np.ndarray) -> None:
    width, height = content.face_width, content.face_height
    hair = _shade(content.hair, 0.85)
    if content.hair_shape == "long":
        canvas.fill(canvas.cover(_box(x, y, 0, 0.12, width + 0.15, height + 0.12, 0.45)), hair)
    elif content.hair_shape == "bun":
        canvas.fill(canvas.cover(_ellipse(x, y, 0, -height - 0.14, 0.22, 0.2)), hair)
    elif content.hair_shape == "curly":
        for angle in np.linspace(np.pi, 2 * np.pi, 7):
            cx, cy = (width + 0.05) * np.cos(angle), -0.16 + (height - 0.05) * np.sin(angle)
            canvas.fill(canvas.cover(_ellipse(x, y, float(cx), float(cy), 0.2, 0.2)), hair)


def _paint_face(canvas: _Canvas, content: Content, x: np.ndarray, y: np.ndarray) -> None:
    width, height, skin = content.face_width, content.face_height, content.skin
    for side in (-1, 1):
        canvas.fill(canvas.cover(_ellipse(x, y, side * (width + 0.02), 0.02, 0.09, 0.13)), _shade(skin, 0.88))
    canvas.fill(canvas.cover(_ellipse(x, y, 0, -0.05, width + 0.015, height + 0.015)), _shade(skin, 0.72))
    canvas.fill(canvas.cover(_ellipse(x, y, 0, -0.05, width - 0.015, height - 0.015)), skin)
    for side in (-1, 1):
        blush = np.clip(-_ellipse(x, y, side * 0.27, 0.17, 0.13, 0.09) * 6, 0, 0.55)
        canvas.fill(blush.astype(np.float32), (236, 110, 100))
    canvas.fill(canvas.cover(_ellipse(x, y, 0, 0.1, 0.045, 0.075)), _shade(skin, 0.78))


def _paint_eyes(canvas: _Canvas, content: Content, motion: Motion, x: np.ndarray, y: np.ndarray) -> None:
    for side in (-1, 1):
        cx = side * content.eye_distance
        lid = 0.016 + 0.1 * motion.eyes
        white = canvas.cover(_ellipse(x, y, cx, -0.09, 0.115, lid))
        canvas.fill(canvas.cover(_ellipse(x, y, cx, -0.095, 0.13, lid + 0.02)), (50, 32, 30))
        canvas.fill(white, (252, 252, 250))
        canvas.fill(white * canvas.cover(_ellipse(x, y, cx + motion.gaze, -0.085, 0.072, 0.082)), (40, 30, 40))
        canvas.fill(white * canvas.cover(_ellipse(x, y, cx + motion.gaze - 0.025, -0.115, 0.022, 0.022)), (255, 255, 255))
        arch = np.float32(2.5) * (x - np.float32(cx)) ** 2
        brow = canvas.cover(_ellipse(x, y - arch, cx, -0.285, 0.12, 0.03))
        canvas.fill(brow, _shade(content.hair, 0.7))


def _paint_mouth(canvas: _Canvas, content: Content, motion: Motion, x: np.ndarray, y: np.ndarray) -> None:
    opening = 0.02 + 0.13 * motion.mouth
    width = 0.21 - 0.04 * motion.mouth
    cy = 0.31 + 0.4 * opening
    y = y + np.float32(1.4) * x * x  # corners up: a smile
    canvas.fill(canvas.cover(_ellipse(x, y, 0, cy, width + 0.035, opening + 0.035)), (196, 62, 66))
    inside = canvas.cover(_ellipse(x, y, 0, cy, width, opening))
    canvas.fill(inside, (74, 14, 22))
    canvas.fill(inside * canvas.cover(_ellipse(x, y, 0, cy + 1.0 * opening, 0.1, 0.5 * opening + 0.01)), (232, 108, 108))
    canvas.fill(inside * canvas.cover(y - _at(cy - 0.45 * opening)), (250, 248, 240))


def _paint_front_hair(canvas: _Canvas, content: Content, x: np.ndarray, y: np.ndarray) -> None:
    width, height = content.face_width, content.face_height
    cap = _ellipse(x, y, 0, -0.06, width + 0.06, height + 0.07)
    if content.hair_shape == "fringe":  # straight across the forehead
        face = np.maximum(_box(x, y, 0, 0.5, width - 0.05, 0.88, 0.08), np.float32(-1))
    elif content.hair_shape == "short":  # parted on one side
        face = _ellipse(x, y, 0.1, 0.25, width + 0.06, 0.72)
    else:
        face = _ellipse(x, y, 0, 0.2, width - 0.02, 0.66)
    above = y - np.float32(0.3 if content.hair_shape == "long" else 0.02)
    hair = canvas.cover(np.maximum(np.maximum(cap, -face), above))
    canvas.fill(hair, content.hair)
    shine = canvas.cover(_ellipse(x, y, -0.16, -height + 0.06, 0.13, 0.035))
    canvas.fill(np.float32(0.6) * hair * shine, _shade(content.hair, 1.5))


def factors(num_videos: int, num_frames: int, seed: int) -> list[tuple[Content, Motion]]:
    """The factors of each video; those of a video depend on `seed` and its number alone, but for the length."""
    drawn = []
    for video in range(num_videos):
        rng = np.random.default_rng([seed, video])
        drawn.append((draw_content(rng), draw_motion(rng, num_frames)))
    return drawn


def render_set(folder: str, num_videos: int = 240, num_frames: int = 48, size: int = 64, seed: int = 0) -> list[str]:
    """Write the clips as MP4 and their factors as `factors.json`; returns the paths of the clips.

    Goes on where it was cut off, and does nothing when complete. Raises InputError when the folder holds something
    else, or a set of other settings; nothing is overwritten then.
    """
    root = Path(folder)
    settings = {"num_videos": num_videos, "num_frames": num_frames, "size": size, "seed": seed}
    paths = [root / f"face_{video:04d}.mp4" for video in range(num_videos)]
    if _take_folder(root, settings) and all(path.exists() for path in paths):
        return [str(path) for path in paths]
    drawn = factors(num_videos, num_frames, seed)
    for (content, motion), path in zip(drawn, paths, strict=True):
        if not path.exists():
            _write(path, encode_video(render_clip(content, motion, size), FPS, ".mp4"))
    described = {
        path.name: {"content": asdict(content), "motion": {name: values.round(5).tolist() for name, values in vars(motion).items()}}
        for path, (content, motion) in zip(paths, drawn, strict=True)
    }
    _write(root / FACTORS, json.dumps({"format_version": FORMAT_VERSION, **settings, "fps": FPS, "videos": described}).encode())
    return [str(path) for path in paths]


def _take_folder(root: Path, settings: dict[str, int]) -> bool:
    """Mark a new or empty folder as ours, before any clip is in it, or check that it is; true when all was written."""
    mark = root / FACTORS
    root.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        if any(not path.name.startswith(".") for path in root.iterdir()):
            raise InputError(f"{root} holds files that are no synthetic set; give an empty folder")
        _write(mark, json.dumps({"format_version": FORMAT_VERSION, **settings}).encode())
    found = json.loads(mark.read_text())
    wanted = {"format_version": FORMAT_VERSION, **settings}
    if any(found.get(name) != value for name, value in wanted.items()):
        there = ", ".join(f"{name} {found.get(name)}" for name in wanted)
        raise InputError(f"{root} holds a synthetic set with {there}; give another folder or delete it")
    return "videos" in found


def _write(path: Path, data: bytes) -> None:
    """All or nothing: a clip that exists is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
