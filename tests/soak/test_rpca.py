"""Robust PCA at the paper's 512 dimensions and lambda, against a slow solver and beside the released procedure."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from mvgan.data.synthetic import draw_content, draw_motion, render_clip
from mvgan.motion.jacobian import pair_grams
from mvgan.motion.official import factorize
from mvgan.motion.rpca import robust_pca
from mvgan.presets import demo
from mvgan.train.codes import chunk_of, synthesize
from mvgan.train.pairs import PairStage
from mvgan.train.ranks import Ranks
from mvgan.train.state import Progress
from mvgan.validation import validate
from tests.unit.motion.reference import Matrix, objective, solve, spectrum_gram


D, LAM = 512, 1 / 60
STEPS, CLIPS, FRAMES, LATENTS = 1000, 64, 24, 8


def real_pairs(size: int, interval: int) -> torch.Tensor:
    """All pairs of synthetic clips, in both orders: uint8 [n, 2, 3, size, size]."""
    pairs = []
    for number in range(CLIPS):
        rng = np.random.default_rng(number)
        frames = torch.from_numpy(render_clip(draw_content(rng), draw_motion(rng, FRAMES), size))
        pairs += [torch.stack([frames[:-interval], frames[interval:]], 1), torch.stack([frames[interval:], frames[:-interval]], 1)]
    return torch.cat(pairs)


def trained_gram() -> Matrix:
    """The mean Gram of the former frame over LATENTS, of the demo's generator after STEPS steps."""
    run = validate(dataclasses.replace(demo(), seed=1))
    stage = PairStage(run, Ranks(run.pairs.batch // run.pairs.group, run.pairs.group), torch.device("cpu"))
    real = real_pairs(run.resolution, run.interval[0])
    for step in range(STEPS):
        chosen = np.random.Generator(np.random.Philox(key=[7, step])).choice(len(real), run.pairs.batch, replace=False)
        stage.step(real[torch.from_numpy(chosen)], Progress(step * run.pairs.batch))
    generator = stage.ema
    latents = generator.mapping(torch.randn(LATENTS, run.network.z_dim, generator=torch.Generator().manual_seed(2)))
    frames = functools.partial(synthesize, generator)
    grams = [pair_grams(frames, w, chunk=chunk_of(run, torch.device("cpu")))[0] for w in latents]
    return torch.stack(grams).mean(0).numpy()


@pytest.mark.parametrize("name", ["k^-1.5", "exp(-i/80)", "trained"])
def test_equals_a_slow_solver(name: str) -> None:
    """Douglas-Rachford splitting to 1e-10 (tests/unit/motion/reference.py): the same minimum, rank and low-rank part."""
    torch.set_num_threads(1)
    spectra = {"k^-1.5": np.arange(1.0, D + 1) ** -1.5, "exp(-i/80)": np.exp(-np.arange(D) / 80)}
    matrix = spectrum_gram(spectra[name]) if name in spectra else trained_gram()
    released = factorize(torch.from_numpy(matrix), LAM, max_iterations=400)
    found, expected = robust_pca(torch.from_numpy(matrix), LAM, 5000), solve(matrix, LAM)
    low_rank = found.low_rank.numpy()
    off = np.linalg.norm(low_rank - expected.low_rank) / np.linalg.norm(expected.low_rank)
    least = expected.objective
    print(
        f"{name}: rank {found.rank} in {found.iterations} iterations, the slow solver {expected.rank} in {expected.iterations}; objective "
        f"{objective(low_rank, matrix, LAM) / least - 1:.1e} and low-rank part {off:.1e} off; released: rank {released.rank} after "
        f"{released.iterations} iterations, objective {objective(released.low_rank, matrix, LAM) / least - 1:.1e} off"
    )
    assert found.converged and found.rank == expected.rank > 0
    assert objective(low_rank, matrix, LAM) == pytest.approx(least, rel=1e-6)
    assert off <= 1e-4
    if name in spectra:
        assert (released.rank, released.iterations) == (D, 2)
