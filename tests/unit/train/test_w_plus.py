"""Codes of W+ from the Jacobian to a video: Grams of layers by reverse mode, edits and frames with one layer's w changed by hand."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from scipy.linalg import block_diag
from scipy.spatial.distance import mahalanobis
from torch import Tensor

from mvgan.config import Codes, InputError, Network, Run
from mvgan.data.shards import ShardSet
from mvgan.motion.codes import equal_edits
from mvgan.motion.walk import INNER
from mvgan.nets.generator import Generator as PairGenerator
from mvgan.nets.space import layers_of
from mvgan.report.page import build_report
from mvgan.sample import CHUNK, Generator
from mvgan.storage.run import RunFolder, open_run, read_run
from mvgan.train.codes import grams_at, latents, synthesize
from mvgan.train.ranks import Ranks
from mvgan.train.session import build_stage, load_generator, spread_of
from mvgan.train.state import seed_of
from mvgan.train.video import VideoStage
from mvgan.validation import validate
from tests.unit.conftest import CPU, find_codes, train_stage


torch.set_num_threads(1)
W_DIM, LAYERS = 32, 6
"""Of the tiny run, at 16 px."""


@pytest.fixture(scope="module")
def plus_run(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with the pair generator of the tiny one and codes of W+; tests must not change its folder."""
    uri, base = tmp_path_factory.mktemp("plus") / "run", tiny_run.run
    shutil.copytree(tiny_run.uri, uri, ignore=shutil.ignore_patterns("run.json", "codes", "video", "codes.*", "latent.*"))
    video = dataclasses.replace(base.video, step="motion", reach_weight=0.5)
    run = dataclasses.replace(base, num_codes=4, codes=dataclasses.replace(base.codes, space="w+"), video=video)
    folder = open_run(str(uri), validate(run), tiny_run.data)
    find_codes(folder)
    train_stage(folder, ShardSet.open(folder.data), "video")
    return folder


@pytest.fixture(scope="module")
def generator(plus_run: RunFolder) -> Generator:
    return Generator.load(plus_run.uri)


def small(seed: int) -> tuple[PairGenerator, Tensor, Run]:
    """A generator at 8 px in float64 whose noise is not 0, and a w."""
    torch.manual_seed(seed)
    run = Run(resolution=8, network=Network(z_dim=6, w_dim=6, mapping_layers=2, channel_base=64, channel_max=6), codes=Codes(chunk=4))
    generator = PairGenerator(run.network, 8).double()
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    return generator.requires_grad_(False), torch.randn(6, dtype=torch.float64), run


def jacobian(generator: PairGenerator, w: Tensor) -> Tensor:
    """J of each frame by the w of each layer, by reverse mode: [2, outputs, num_ws, w_dim]."""
    ws = w.expand(generator.synthesis.num_ws, -1).clone()
    jac = torch.autograd.functional.jacobian(lambda ws: generator.synthesis(ws[None], None, torch.float64)[0], ws)
    return jac.flatten(1, 3)


@pytest.mark.parametrize("seed", [0, 1])
def test_grams_of_layers_equal_reverse_mode(seed: int) -> None:
    """In float64. The Jacobian by w is the sum of those by each layer's w, so that its Gram follows from them too."""
    generator, w, run = small(seed)
    jac = jacobian(generator, w)
    expected = torch.einsum("foli,folj->flij", jac, jac) / jac.shape[1]
    in_w, in_w_plus = (grams_at(generator, w, dataclasses.replace(run, codes=dataclasses.replace(run.codes, space=s))) for s in ("w", "w+"))
    assert in_w_plus.shape == (2, 4, 6, 6) and in_w_plus.dtype == torch.float64
    torch.testing.assert_close(in_w_plus, expected, rtol=1e-10, atol=1e-12)
    whole = jac.sum(2)
    torch.testing.assert_close(in_w, whole.mT @ whole / jac.shape[1], rtol=1e-10, atol=1e-12)


def test_grams_of_layers_take_the_grey_mean() -> None:
    generator, w, run = small(0)
    grey = jacobian(generator, w).unflatten(1, (3, 64)).mean(1)
    found = grams_at(generator, w, dataclasses.replace(run, codes=Codes(chunk=4, grey=True, space="w+")))
    torch.testing.assert_close(found, torch.einsum("foli,folj->flij", grey, grey) / 64, rtol=1e-10, atol=1e-12)


def one_layer_changed(pairs: PairGenerator, w: Tensor, code: Tensor, alpha: Tensor, layer: int) -> Tensor:
    """Frame pairs of w [n, w_dim] with alpha [n] times the part of `code` in `layer` added to the w of that layer."""
    ws = w[:, None].repeat(1, LAYERS, 1)
    ws[:, layer] += alpha[:, None] * code[layer * W_DIM : (layer + 1) * W_DIM]
    return pairs.synthesis(ws, None, torch.float32)


def test_the_codes_act_in_the_layers_that_the_json_says(plus_run: RunFolder) -> None:
    """Against frames in which one layer's w was changed by hand: the same edits, and the strengths of codes.json for small ones."""
    pairs, about = load_generator(plus_run), json.loads(plus_run.store.read("export/codes.json"))
    w, codes = latents(pairs, plus_run.run, "test", 0, 3), Generator.load(plus_run.uri).codes
    assert codes.shape == (2, 4, LAYERS * W_DIM)
    for edited, direction in enumerate(("backward", "forward")):
        edits = equal_edits(lambda ws: synthesize(pairs, ws), w, codes[edited], edited)
        layers = about["generalized"][direction]["layers"]
        assert layers == layers_of(codes[edited], W_DIM).tolist()
        for number, layer in enumerate(layers):
            code = codes[edited, number]
            assert int(code.count_nonzero()) == int(code[layer * W_DIM : (layer + 1) * W_DIM].count_nonzero()) > 0
            after = one_layer_changed(pairs, w, code, edits.alpha[number].float(), layer)
            change = (after - synthesize(pairs, w)).double().square().mean((2, 3, 4))
            torch.testing.assert_close(change[:, edited], edits.edited[number], rtol=1e-3, atol=0)
            torch.testing.assert_close(change[:, 1 - edited], edits.kept[number], rtol=1e-3, atol=0)
        assert {"generalized", "random"} == about["edits"].keys() and about["edits"]["generalized"][direction]["latents"] == 32


def test_steps_of_the_length_of_motion(plus_run: RunFolder) -> None:
    """Reference: the mean Grams as blocks of one large matrix, by which all steps change their frames alike."""
    stage = build_stage(plus_run, "video", Ranks(1, 4), CPU)
    assert isinstance(stage, VideoStage)
    tensors = load(plus_run.store.read("export/codes.safetensors"))
    changes = []
    for edited, direction in enumerate(("backward", "forward")):
        steps = (stage.latent.scale[edited][:, None] * tensors[direction]).double()
        gram = torch.from_numpy(block_diag(*tensors["mean_grams"][edited].numpy()))
        changes.append(torch.einsum("ni,ij,nj->n", steps, gram, steps))
    torch.testing.assert_close(torch.stack(changes), changes[0][0].expand(2, 4), rtol=1e-5, atol=0)


def test_the_reach_term_by_scipy(plus_run: RunFolder) -> None:
    """Reference: the Mahalanobis distance with the covariance of mapped w as the block of each layer."""
    stage = build_stage(plus_run, "video", Ranks(1, 4), CPU)
    assert isinstance(stage, VideoStage)
    ws = 0.3 * torch.randn(3, 5, LAYERS * W_DIM, generator=torch.Generator().manual_seed(0))
    spread = spread_of(load_generator(plus_run), plus_run.run)
    inverse = np.linalg.inv(block_diag(*[(spread @ spread.T).numpy()] * LAYERS))
    squared = np.array([[mahalanobis(w, walk[0], inverse) ** 2 / 8 for w in walk] for walk in ws.double().numpy()])
    np.testing.assert_allclose(stage.beyond_reach(ws).numpy(), np.maximum(squared - 1, 0).mean(1), rtol=1e-3)


def shown(generator: Generator, ws: Tensor, maps: dict[int, Tensor]) -> np.ndarray:
    """Frame pairs of a w per layer [n, num_ws, w_dim] as whole numbers from 0 to 255."""
    frames = generator.pairs.synthesis(ws, lambda layer, _: maps[layer].expand(len(ws), -1, -1, -1), torch.float32)
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().numpy()


def test_a_video_by_hand(generator: Generator, plus_run: RunFolder) -> None:
    """Reference: eq. 10 with each code added to the w of its layer, and frames synthesized from a w per layer."""
    start, maps = generator.content(5)
    ((walked, sides),) = generator.walk(start, 9, 5, "latter")
    e = torch.randn(CHUNK, W_DIM, generator=torch.Generator().manual_seed(seed_of(5, "motion")))[:8]
    coefficients = generator.latent.steer(e[None], generator.latent.encoder(start[None]))[0][0]
    about = json.loads(plus_run.store.read("export/codes.json"))["generalized"]
    rows = [start.repeat(LAYERS, 1)]
    for t in range(1, 9):
        edited = 0 if t % 2 else 1  # latter first: odd steps edit the former frame
        rows.append(rows[-1].clone())
        for number, layer in enumerate(about[("backward", "forward")[edited]]["layers"]):
            step = generator.step_lengths[edited, number] * coefficients[t - 1, number]
            rows[-1][layer] += step * generator.codes[edited, number].view(LAYERS, W_DIM)[layer]
    ws = torch.stack(rows)
    torch.testing.assert_close(walked, ws.flatten(1), rtol=1e-5, atol=1e-6)
    video = np.concatenate(list(generator.stream(5, 9, first="latter")))
    assert np.abs(video - shown(generator, ws, maps)[range(9), sides]).max() <= 1


def test_held_and_interpolated_and_swept(generator: Generator) -> None:
    """Held walks stay within the quantile; those of one side lie on lines; a sweep of 0 is the content, one step that of the walk."""
    hold, (start, maps) = generator.hold, generator.content(3)
    ws = torch.cat([ws for ws, _ in generator.walk(start, 200, 3, "latter", 2, hold)])
    assert ws.shape == (200, LAYERS * W_DIM) and hold.distribution.distance(ws).max() <= hold.distribution.quantile(INNER) * 1.0001
    torch.testing.assert_close(ws[1:-1:2], (ws[0:-2:2] + ws[2::2]) / 2)
    (pairs,) = generator.sweep(3, (1, 2), [0.0, 1.5])
    assert pairs.shape == (2, 2, 3, 16, 16)
    code, length = generator.codes[1, 2], generator.step_lengths[1, 2]
    moved = torch.stack([start.repeat(LAYERS), start.repeat(LAYERS) + 1.5 * length * code]).view(2, LAYERS, W_DIM)
    assert np.abs(pairs - shown(generator, moved, maps)).max() <= 1


def test_codes_of_the_other_space_are_refused(plus_run: RunFolder, tiny_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(Path(plus_run.uri, "export"), tmp_path / "run/export")
    about = json.loads((tmp_path / "run/export/config.json").read_text())
    about["config"]["codes"]["space"] = "w"
    (tmp_path / "run/export/config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"backward is \[4, 192\]; by the settings it is \[4, 32\]"):
        Generator.load(str(tmp_path / "run"))


def test_the_report_tells_the_layers(plus_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(plus_run.uri, tmp_path / "run")
    page = Path(build_report(read_run(str(tmp_path / "run")))).read_text(encoding="utf-8")
    for direction in ("backward", "forward"):
        layers = json.loads(plus_run.store.read("export/codes.json"))["generalized"][direction]["layers"]
        assert f"layer of each {direction} code, from 0" in page and ", ".join(map(str, layers)) in page
