"""Videos from a finished run: what `Generator.sample` promises."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mvgan.config import InputError
from mvgan.sample import CHUNK, Generator
from mvgan.storage.run import RunFolder
from mvgan.train.state import seed_of


@pytest.fixture(scope="module")
def generator(tiny_run: RunFolder) -> Generator:
    return Generator.load(tiny_run.uri)


def test_shape_kind_and_speed(generator: Generator) -> None:
    """Speed against the source: the synthetic videos have 25 frames a second, and every second one was a clip's."""
    videos = generator.sample([3, 1], 5)
    assert videos.shape == (2, 5, 3, 16, 16) and videos.dtype == np.uint8
    assert generator.fps == 12.5


def test_a_seed_is_a_video(generator: Generator) -> None:
    """Against itself: again, alone or among others, exactly."""
    together = generator.sample([0, 7, 2], 6)
    for row, seed in enumerate([0, 7, 2]):
        assert (together[row] == generator.sample([seed], 6)[0]).all()
    assert (together[0] != together[1]).any()


def test_frame_zero_is_the_pair_generators(generator: Generator) -> None:
    """Against the pair generator itself: frame 0 is the side that opens the video (x_01 of eq. 11), at w_0 (eq. 9)."""
    draws = torch.Generator().manual_seed(seed_of(5, "video"))
    z = torch.randn(1, generator.run.network.z_dim, generator=draws)
    maps = {}
    for block in generator.pairs.synthesis.blocks:
        for layer in [layer for layer in (block.conv0, block.conv1) if layer is not None]:
            maps[layer.index] = torch.randn(1, 1, layer.resolution, layer.resolution, generator=draws)
    with torch.no_grad():
        pair = generator.pairs.synthesis(generator.pairs.mapping(z), lambda layer, _: maps[layer], torch.float32)[0]
    side = 0 if generator.run.video.first == "former" else 1
    expected = ((pair[side].clamp(-1, 1) + 1) * 127.5).round().numpy()
    assert np.abs(generator.sample([5], 2)[0, 0] - expected).max() <= 1


def test_the_stream_is_the_video_in_pieces(generator: Generator) -> None:
    """Against `sample`, over the border of a piece."""
    length = CHUNK + 3
    pieces = list(generator.stream(4, length))
    assert [piece.shape for piece in pieces] == [(CHUNK, 3, 16, 16), (3, 3, 16, 16)]
    assert (np.concatenate(pieces) == generator.sample([4], length)[0]).all()


def test_pieces_leave_no_seam(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a piece that holds the whole video: the sides go on taking turns, the noise stays. A batch may round one level otherwise."""
    whole = generator.sample([4], 12)[0].astype(int)
    monkeypatch.setattr("mvgan.sample.CHUNK", 4)
    pieces = list(generator.stream(4, 12))
    assert [len(piece) for piece in pieces] == [4, 4, 4]
    assert np.abs(np.concatenate(pieces) - whole).max() <= 1


def test_a_longer_video_begins_as_a_shorter_one(generator: Generator) -> None:
    """Against a shorter one of the same seed; another batch may round one level otherwise."""
    long, short = generator.sample([4], 9)[0].astype(int), generator.sample([4], 5)[0].astype(int)
    assert np.abs(long[:5] - short).max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_seed_is_the_same_video_on_a_gpu(tiny_run: RunFolder, generator: Generator) -> None:
    """Against the CPU: the numbers are drawn there; convolutions round otherwise, by a few levels."""
    there = Generator.load(tiny_run.uri, "cuda").sample([0, 7], 6).astype(int)
    assert np.abs(there - generator.sample([0, 7], 6)).max() <= 4


def test_one_frame(generator: Generator) -> None:
    assert generator.sample([0], 1).shape == (1, 1, 3, 16, 16)


def test_truncation_zero_leaves_one_content(generator: Generator) -> None:
    """At 0 every latent is the mean (Karras et al. 2019, truncation trick): frame 0 differs by noise maps only."""
    far, near = generator.sample(range(6), 1), generator.sample(range(6), 1, truncation=0.0)
    assert near[:, 0].astype(float).var(0).mean() < 0.5 * far[:, 0].astype(float).var(0).mean()


def test_an_unfinished_run_is_told(tiny_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.uri, tmp_path / "run")
    (tmp_path / "run/export/latent.safetensors").unlink()
    with pytest.raises(InputError, match=r"latent\.safetensors"):
        Generator.load(str(tmp_path / "run"))
