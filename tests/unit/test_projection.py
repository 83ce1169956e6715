"""A latent for a picture: against a picture whose latent is known, and files that are none."""

import io
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save

from mvgan.config import InputError, Network, Run, Video
from mvgan.media import encode_png
from mvgan.nets import generator as nets
from mvgan.nets.latent import LatentGenerator
from mvgan.projection import PULL, Projection, latents_file, project, read_latents, read_picture
from mvgan.sample import Generator
from mvgan.train.pairs import to_uint8


RUN = Run(
    resolution=16,
    num_codes=2,
    network=Network(z_dim=16, w_dim=16, mapping_layers=2, channel_base=512, channel_max=32, precision="fp32"),
    video=Video(hidden=8),
)


@pytest.fixture(scope="module")
def generator() -> Generator:
    """Small and untrained, in float32, with noise maps that matter: its frames differ by their latents enough to be told apart."""
    torch.manual_seed(0)
    pairs = nets.Generator(RUN.network, RUN.resolution).eval().requires_grad_(False)
    for name, parameter in pairs.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.1)
        if name.endswith("to_frames.weight"):
            parameter.mul_(0.3)  # so that frames lie within [-1, 1]
    codes = torch.linalg.qr(torch.randn(16, 4)).Q.T.reshape(2, 2, 16)
    return Generator(RUN, 25.0, pairs, codes, LatentGenerator(16, 8, 2, 0.2).requires_grad_(False))


def frame(generator: Generator, w: torch.Tensor, seed: int, side: int) -> np.ndarray:
    _, maps = generator.content(seed)
    with torch.no_grad():
        return to_uint8(generator.pairs_at(w[None], maps))[0, side]


@pytest.fixture(scope="module")
def found(generator: Generator) -> tuple[np.ndarray, Projection, list[str]]:
    """The picture of a known latent, with the noise maps of another seed, its projection and what it said."""
    w, _ = generator.content(11)
    lines: list[str] = []
    picture = frame(generator, w, 5, 1)
    return picture, project(generator, picture, 5, "latter", steps=300, say=lines.append), lines


def test_the_picture_of_a_known_latent_is_found(generator: Generator, found: tuple[np.ndarray, Projection, list[str]]) -> None:
    """At most 2 % of the squared difference that there is at the mean latent; the figures against frames rendered here."""
    picture, projection, _ = found
    real = picture.astype(float) / 127.5 - 1
    after = np.square(frame(generator, projection.w, 5, 1) / 127.5 - 1 - real).mean()
    assert projection.after == pytest.approx(after, rel=0.05, abs=2e-5)
    assert projection.before > 0.01 and projection.after < 0.02 * projection.before


def test_a_latent_that_is_found_is_one_of_the_mappings(generator: Generator, found: tuple[np.ndarray, Projection, list[str]]) -> None:
    """By its Mahalanobis distance, within what 99 of 100 mapped latents have. Reference: numpy, from other latents."""
    z = torch.randn(4000, 16, generator=torch.Generator().manual_seed(9))
    w = generator.pairs.mapping(z).double().numpy()
    inverse = np.linalg.inv(np.cov(w.T))
    distances = [float((row - w.mean(0)) @ inverse @ (row - w.mean(0))) for row in (*w, found[1].w.double().numpy())]
    assert distances[-1] < np.quantile(distances[:-1], 0.99)


def test_a_picture_of_no_frame_pulls_w_less_far(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """White, which no frame is. Against the search without the pull, by the Mahalanobis distance to other latents (numpy)."""
    picture = np.full((3, 16, 16), 255, np.uint8)
    w = generator.pairs.mapping(torch.randn(4000, 16, generator=torch.Generator().manual_seed(9))).double().numpy()
    inverse = np.linalg.inv(np.cov(w.T))
    distances = []
    for pull in (PULL, 0.0):
        monkeypatch.setattr("mvgan.projection.PULL", pull)
        off = project(generator, picture, 5, "latter", steps=150).w.double().numpy() - w.mean(0)
        distances.append(float(off @ inverse @ off))
    assert distances[0] < 0.8 * distances[1]


def test_noise_on_w_fades(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the first step, whose w is the mean itself: 0.05 of the deviation of w at first, and none in the last quarter."""
    tried: list[torch.Tensor] = []
    render = Generator.pairs_at
    monkeypatch.setattr(Generator, "pairs_at", lambda self, ws, maps: tried.append(ws.detach()[0]) or render(self, ws, maps))  # type: ignore[func-returns-value]
    project(generator, np.full((3, 16, 16), 128, np.uint8), 5, "latter", steps=40)
    w = generator.pairs.mapping(torch.randn(4000, 16, generator=torch.Generator().manual_seed(9)))
    deviation = float((w - w.mean(0)).square().sum(1).mean().sqrt())
    mean, found = tried[-2:]
    first = float((tried[0] - mean).norm()) / 16**0.5  # 16 numbers of one deviation
    assert 0.5 < first / (0.05 * deviation) < 1.6
    step = 0.1 * (0.5 - 0.5 * math.cos(math.pi * (1 - 39 / 40) / 0.25))  # of Adam in the last step, by the falling rate
    assert float((tried[39] - found).abs().max()) < 1.01 * step


def test_progress_and_repetition(generator: Generator, found: tuple[np.ndarray, Projection, list[str]]) -> None:
    picture, _, lines = found
    assert lines[-1].startswith("projection: 300/300 steps, difference ") and lines[-1].endswith("ETA 0 s")
    first, again = (project(generator, picture, 5, "latter", steps=3) for _ in range(2))
    assert torch.equal(first.w, again.w)
    other = project(generator, picture, 5, "former", steps=3)
    assert other.before != first.before


def test_a_picture_of_another_size_is_an_error(generator: Generator) -> None:
    with pytest.raises(ValueError, match=r"\[3, 8, 8\]; expected \[3, 16, 16\]"):
        project(generator, np.zeros((3, 8, 8), np.uint8), 0, "latter")


def jpeg(image: np.ndarray) -> bytes:
    """`image` [h, w, 3] as JPEG by PyAV."""
    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as container:
        stream = container.add_stream("mjpeg")
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_picture_is_cut_to_its_centre_square(kind: str, tmp_path: Path) -> None:
    """32 x 64 pixels, whose middle half is one colour: 16 x 16 of that colour are left."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 16:48] = (200, 100, 50)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(encode_png(np.ascontiguousarray(image.transpose(2, 0, 1))) if kind == "png" else jpeg(image))
    picture = read_picture(str(path), 16)
    assert picture.shape == (3, 16, 16) and picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= (0 if kind == "png" else 6)


@pytest.mark.parametrize("content", [None, b"", b"no picture", encode_png(np.zeros((3, 64, 64), np.uint8))[:60]])
def test_an_unreadable_picture_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png.*PNG or JPEG") as error:
        read_picture(str(tmp_path / "x.png"), 16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(16,), (1, 16), (3, 16)])
def test_latents_are_read_as_they_were_written(shape: tuple[int, ...], tmp_path: Path) -> None:
    w = torch.randn(shape)
    (tmp_path / "w.safetensors").write_bytes(latents_file(w))
    assert torch.equal(read_latents(str(tmp_path / "w.safetensors"), 16), w.reshape(-1, 16))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        (save({"w": torch.ones(16, dtype=torch.complex64)}), "holds torch.complex64"),
        (save({"w": torch.full((16,), 1e38)}), "not finite or beyond"),
        (b"no tensors", "is no safetensors file"),
        (save({"z": torch.zeros(16)}), "has no tensor w, but z"),
        (save({"w": torch.zeros(32)}), r"is \[32\]; expected a tensor w of \[16\] or \[n, 16\]"),
        (save({"w": torch.zeros(2, 2, 16)}), r"is \[2, 2, 16\]"),
        (save({"w": torch.zeros(0, 16)}), r"is \[0, 16\]"),
        (save({"w": torch.full((16,), float("nan"))}), "not finite"),
    ],
)
def test_other_latents_are_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_latents(str(tmp_path / "w.safetensors"), 16)
    assert "\n" not in str(error.value)
