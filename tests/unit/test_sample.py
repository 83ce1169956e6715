"""Videos from a finished run: what `Generator.sample` promises."""

import inspect
import json
import shutil
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from mvgan.config import InputError
from mvgan.motion.walk import INNER
from mvgan.sample import CHUNK, Generator, Options
from mvgan.storage.run import RunFolder
from mvgan.train.pairs import to_uint8
from mvgan.train.state import seed_of


@pytest.fixture(scope="module")
def generator(tiny_run: RunFolder) -> Generator:
    return Generator.load(tiny_run.uri)


def test_shape_kind_and_speed(generator: Generator) -> None:
    """Speed against the source: the synthetic videos have 25 frames a second, and every second one was a clip's."""
    videos = generator.sample([3, 1], 5)
    assert videos.shape == (2, 5, 3, 16, 16) and videos.dtype == np.uint8
    assert generator.fps() == generator.fps(2) == 12.5 and generator.fps(16) == 100


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


def test_content_and_motion_have_seeds_of_their_own(generator: Generator) -> None:
    """Against the video of one seed: its content with other motion, and the walk of its motion from another content.

    The codes are orthonormal, and the LSTM sees w_0 and the noise alone: a walk from the same w_0 differs by the noise.
    """
    (same,), (other,), (plain,) = generator.stream(4, 9, motion_seed=4), generator.stream(4, 9, motion_seed=5), generator.stream(4, 9)
    assert (same == plain).all()
    assert (other[0] == plain[0]).all() and (other[1:] != plain[1:]).any()
    w, _ = generator.content(4)
    draws = torch.Generator().manual_seed(seed_of(5, "motion"))
    e = torch.randn(CHUNK, generator.run.network.w_dim, generator=draws)[:8]
    ((walked, sides),) = generator.walk(w, 9, 5, "former")
    with torch.no_grad():
        expected = generator.latent(w[None], e[None], generator.codes, "former")[0]
    torch.testing.assert_close(walked, expected)
    assert sides == [0, 1, 0, 1, 0, 1, 0, 1, 0]


def test_a_walk_does_not_depend_on_its_length(generator: Generator) -> None:
    """Over a border of what is drawn at once: exactly the same noise, so the latents differ by no more than rounding."""
    w, _ = generator.content(1)
    long, short = (torch.cat([ws for ws, _ in generator.walk(w, length, 1, "latter")]) for length in (2 * CHUNK + 5, CHUNK + 1))
    torch.testing.assert_close(long[: CHUNK + 1], short)


def test_either_side_opens_the_video(generator: Generator) -> None:
    """Against the pair at w_0 (eq. 11): x_00 or x_01."""
    w, maps = generator.content(2)
    with torch.no_grad():
        pair = to_uint8(generator.pairs_at(w[None], maps))[0]
    for side, first in enumerate(("former", "latter")):
        (video,) = generator.stream(2, 1, first=first)  # type: ignore[arg-type]
        assert (video[0] == pair[side]).all()


def test_a_given_w_is_the_content(generator: Generator) -> None:
    """Against the seed that it is taken from; the seed beside it gives the noise maps alone."""
    w, _ = generator.content(3, 0.7)
    (given,), (plain,) = generator.stream(3, 6, w=w), generator.stream(3, 6, 0.7)
    assert (given == plain).all()
    (truncated,) = generator.stream(3, 6, 0.0, w=w)
    assert (truncated == plain).all()
    with pytest.raises(ValueError, match=r"w is \[2, 32\]; expected \[32\]"):
        next(generator.stream(3, 6, w=w.expand(2, -1)))


def test_a_sample_takes_all_that_its_stream_takes(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the stream, each option changing the video; none is left out, by the signature of the one and the words of the other."""
    chosen: Options = {"motion_seed": 9, "first": "former", "w": generator.content(8)[0], "interpolate": 3, "hold": True}
    keywords = {name: p for name, p in inspect.signature(Generator.stream).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert keywords.keys() == chosen.keys() == Options.__annotations__.keys()
    hints = get_type_hints(Generator.stream)
    assert get_type_hints(Options) == {name: hints[name] for name in keywords}
    both = generator.sample([4, 5], 40, 0.7, **chosen)
    for video, seed in zip(both, [4, 5], strict=True):
        assert (video == np.concatenate(list(generator.stream(seed, 40, 0.7, **chosen)))).all()
    for name in ("motion_seed", "first", "w", "interpolate"):
        assert (generator.sample([4], 40, 0.7, **chosen | {name: keywords[name].default}) != both[:1]).any(), name  # type: ignore[misc]
    asked: list[object] = []
    walk = Generator.walk
    monkeypatch.setattr(Generator, "walk", lambda *given: asked.append(given[-1]) or walk(*given))  # type: ignore[func-returns-value]
    generator.sample([4], 1, hold=True)
    assert asked == [generator.hold]


@pytest.mark.parametrize(
    ("num_frames", "options", "said"),
    [
        (0, {}, "num_frames is 0; a video has at least 1 frame"),
        (2, {"interpolate": -1}, "interpolate is -1; give 0, or the frames for every two steps"),
        (2, {"first": "last"}, "first is 'last'; give former or latter, or leave it away"),
    ],
)
def test_what_no_video_can_be_is_an_error(generator: Generator, num_frames: int, options: Options, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        next(generator.stream(0, num_frames, **options))
    with pytest.raises(ValueError, match=said):
        generator.sample([0], num_frames, **options)


@pytest.mark.parametrize("code", [(0, 1), (1, 0)])
def test_a_sweep_is_w_plus_alpha_times_the_code(generator: Generator, code: tuple[int, int]) -> None:
    """Against eq. 2 written out, with a step of residual times scale."""
    alphas = [-2.0, 0.0, 3.5]
    (found,) = generator.sweep(6, code, alphas)
    w, maps = generator.content(6)
    n = generator.codes[code] * generator.run.video.residual * generator.latent.scale[code]
    with torch.no_grad():
        expected = to_uint8(generator.pairs_at(torch.stack([w + alpha * n for alpha in alphas]), maps))
    assert found.shape == (3, 2, 3, 16, 16)
    assert np.abs(found.astype(int) - expected).max() <= 1 and (found[0] != found[2]).any()


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
    with pytest.raises(InputError, match=r"has no latent\.safetensors: the run has not finished"):
        Generator.load(str(tmp_path / "run"))


@pytest.fixture
def copied(tiny_run: RunFolder, tmp_path: Path) -> Path:
    """The export/ of a run, to be spoilt."""
    return Path(shutil.copytree(Path(tiny_run.uri, "export"), tmp_path / "run" / "export"))


def refusal(export: Path) -> str:
    """Why the run is refused."""
    with pytest.raises(InputError) as error:
        Generator.load(str(export.parent))
    return str(error.value)


def test_what_a_copied_export_lacks_is_told(copied: Path) -> None:
    """It is no unfinished run: nothing of it could be run again. All that is missing is named at once."""
    (copied / "codes.json").unlink()
    assert refusal(copied) == f"{copied} lacks codes.json of the files that a run exports together; copy them beside the others"
    (copied / "latent.safetensors").unlink()
    assert "lacks latent.safetensors, codes.json of" in refusal(copied)


def test_codes_of_another_generator_are_refused(copied: Path) -> None:
    """The generator has the right shapes and other weights."""
    path = copied / "generator.safetensors"
    path.write_bytes(save({name: tensor + 1 for name, tensor in load(path.read_bytes()).items()}))
    assert "motion codes of another generator" in refusal(copied)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resolution": 32}, "synthesis.blocks.3.conv0.affine.bias is missing, expected [16]"),
        ({"resolution": 8}, "synthesis.blocks.2.conv0.affine.bias is [16], expected none"),
        ({"network": {"channel_max": 8}}, "synthesis.blocks.0.const is [16, 4, 4], expected [8, 4, 4]"),
    ],
)
def test_a_generator_of_other_settings_is_refused(copied: Path, change: dict[str, object], said: str) -> None:
    """Another resolution, or other channels."""
    about = json.loads((copied / "config.json").read_text())
    network = about["config"]["network"] | change.get("network", {})
    about["config"] |= change | {"network": network}
    (copied / "config.json").write_text(json.dumps(about))
    line = refusal(copied)
    assert "generator.safetensors" in line and "such as resolution and channels" in line and said in line


def test_other_codes_than_the_settings_say_are_refused(copied: Path) -> None:
    path = copied / "codes.safetensors"
    path.write_bytes(save({name: tensor[:1].contiguous() for name, tensor in load(path.read_bytes()).items()}))
    assert "backward is [1, 32]; by the settings it is [2, 32]" in refusal(copied)


@pytest.mark.parametrize("factor", [2, 5])
def test_interpolated_videos_show_one_side(generator: Generator, factor: int) -> None:
    """Against the plain walk: every second frame of it, which its side shows, is a frame here; between two of them w lies on a line."""
    w, _ = generator.content(2)
    plain = torch.cat([ws for ws, _ in generator.walk(w, 2 * CHUNK + 1, 2, "latter")])
    pieces = list(generator.walk(w, factor * CHUNK + 1, 2, "latter", factor))
    ws, sides = torch.cat([ws for ws, _ in pieces]), [side for _, sides in pieces for side in sides]
    assert max(len(ws) for ws, _ in pieces) <= CHUNK and sides == [1] * len(ws)
    torch.testing.assert_close(ws[::factor], plain[::2])
    second = ws.diff(n=2, dim=0).abs().amax(1)
    assert second[torch.arange(len(second)) % factor != factor - 1].max() < 1e-5 if factor > 2 else True
    plain_frames, frames = (np.concatenate(list(generator.stream(2, 9, interpolate=r))).astype(int) for r in (0, factor))
    assert np.abs(frames[factor] - plain_frames[2]).max() <= 1


def test_interpolated_videos_do_not_alternate(generator: Generator) -> None:
    """The two sides of an untrained pair differ much: shown in turn they make second differences as large as that, one side does not."""
    w, maps = generator.content(2)

    def roughness(factor: int) -> float:
        """Mean square of second differences over that of first ones, before frames are rounded."""
        video = torch.cat([generator.pairs_at(ws, maps)[range(len(ws)), sides] for ws, sides in generator.walk(w, 33, 2, "latter", factor)])
        return float(video.diff(n=2, dim=0).square().mean() / video.diff(dim=0).square().mean())

    jumps, steps = roughness(0), roughness(4)
    assert jumps > 3.5 and steps < 1  # an alternation has 4, a straight line 0


def test_drift_is_the_distance_of_each_frames_w(generator: Generator) -> None:
    """Against Mahalanobis' formula by numpy, over the walk of eq. 10 at once; that of a held walk stays, by the quantile it is held to."""
    w, _ = generator.content(3)
    draws = torch.Generator().manual_seed(seed_of(3, "motion"))
    e = torch.randn(CHUNK, generator.run.network.w_dim, generator=draws)[:19]
    with torch.no_grad():
        walked = generator.latent(w[None], e[None], generator.codes, generator.run.video.first)[0].double().numpy()
    mean, factor = generator.distribution.mean.numpy(), generator.distribution.factor.numpy()
    x = walked - mean
    expected = np.sqrt(np.einsum("td,de,te->t", x, np.linalg.inv(factor @ factor.T), x) / len(mean))
    found = generator.drift([8, 3], 20)
    assert found.shape == (2, 20)
    np.testing.assert_allclose(found[1], expected, rtol=1e-4)
    assert float(generator.drift([8, 3], 100, hold=True).max()) <= generator.distribution.quantile(INNER) + 1e-5


def test_a_held_walk_stays_on_the_distribution(generator: Generator) -> None:
    """Against the quantile of distances of mapped w; the same again; its content is drawn in where it is far from the mean."""
    distribution = generator.hold.distribution
    for seed in range(4):
        w, _ = generator.content(seed)
        ws = torch.cat([ws for ws, _ in generator.walk(w, 200, seed, "latter", hold=generator.hold)])
        assert distribution.distance(ws).max() <= distribution.quantile(INNER) * 1.0001
        again = torch.cat([ws for ws, _ in generator.walk(w, 70, seed, "latter", hold=generator.hold)])
        torch.testing.assert_close(ws[:70], again)
