"""All ways to find motion codes, on one trained generator: how much more a code changes its own frame than the other one."""

import dataclasses
import functools
import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mvgan.motion.codes import edit_ratios, generalized_codes, nullspace_codes, random_codes, reach
from mvgan.motion.factorize import Sample, factorize_latent
from mvgan.motion.jacobian import pair_grams
from mvgan.motion.rpca import LowRank
from mvgan.storage.run import read_run
from mvgan.train.codes import chunk_of, grams_at, latents, synthesize
from mvgan.train.export import read_tensors
from mvgan.train.session import load_generator, spread_of


CPU = torch.device("cpu")
LATENTS = 32
LAYERED = 8
"""Latents of the mean Grams of W+, which take a pass of the generator for each layer."""


def whole(gram: Tensor) -> LowRank:
    """The Gram itself in place of its low-rank part."""
    values, vectors = torch.linalg.eigh(gram)
    return LowRank(gram, torch.zeros_like(gram), values.flip(0), vectors.flip(1), len(gram), 0, 0.0, 0.0, True)


def counted_alike(grams: Tensor) -> Tensor:
    """Mean of Grams [latents, 2, num_ws, w_dim, w_dim], those of each latent brought to the same trace, as stage 2 has it."""
    traces = torch.einsum("nflii->n", grams)
    return torch.einsum("nflij,n->flij", grams, traces.mean() / traces / len(grams))


def strategies(mean: Sample, one: Sample, layers: Tensor, spread: Tensor, num_codes: int) -> Iterator[tuple[str, Tensor]]:
    """Backward codes by each strategy; ranks and floors as in trials on other generators. layers: the mean Grams of W+."""
    w_dim = len(mean.grams[0])
    unit = torch.eye(w_dim, dtype=torch.float64)
    yield "random directions", random_codes(num_codes, w_dim, 0)
    yield (
        "eigenvectors of the former frame's mean Gram",
        torch.linalg.eigh(mean.grams[0]).eigenvectors.flip(1)[:, :num_codes].T.contiguous(),
    )
    for name, sample in (("one latent", one), ("mean Gram", mean)):
        (edit,), (keep,) = sample.factors
        yield f"null space (eq. 8) of the low-rank parts, {name}", nullspace_codes([edit], [keep], num_codes, [(edit.rank, keep.rank)])
        edit, keep = map(whole, sample.grams)
        for rank in (30, 60, 100, 200):
            codes = nullspace_codes([edit], [keep], num_codes, [(w_dim, rank)])
            yield f"null space (eq. 8) of the Grams, {name}, r_b {rank}", codes
        for epsilon in (0.1, 0.01, 0.001):
            yield f"generalised, {name}, floor I, epsilon {epsilon:g}", generalized_codes(*sample.grams, unit, num_codes, epsilon)
        for epsilon in (0.03, 0.01, 0.003, 0.001):
            yield f"generalised, {name}, epsilon {epsilon:g}", generalized_codes(*sample.grams, spread, num_codes, epsilon)
    for epsilon in (0.1, 0.03, 0.01, 0.003, 0.001):
        yield f"generalised, W+, mean of {LAYERED}, epsilon {epsilon:g}", generalized_codes(*layers, spread, num_codes, epsilon)


@pytest.mark.skipif("MVGAN_RUN" not in os.environ, reason="MVGAN_RUN names no run whose stage 2 has finished: strategies were not compared")
def test_the_default_separates() -> None:
    """Over 32 fresh latents, edits of a mean square of 3e-4: median at least 6 and worst at least 4 by the run's own codes."""
    torch.set_num_threads(1)
    folder = read_run(os.environ["MVGAN_RUN"])
    run, generator = folder.run, load_generator(folder)
    if run.codes.space == "w+":
        pytest.skip("strategies of W are compared on the Grams of a run with codes of W")
    render = functools.partial(synthesize, generator)
    tensors = read_tensors(folder.store, "codes.safetensors", "mean_grams", "backward", "forward")
    starts = latents(generator, run, "codes", 0, run.latents)
    first = pair_grams(render, starts[0], chunk=chunk_of(run, CPU))
    mean, one = (factorize_latent(grams, run.codes) for grams in (tensors["mean_grams"], first))
    layered = dataclasses.replace(run, codes=dataclasses.replace(run.codes, space="w+"))
    layers, spread = counted_alike(torch.stack([grams_at(generator, w, layered) for w in starts[:LAYERED]])), spread_of(generator, run)
    w = latents(generator, run, "strategies", 0, LATENTS)
    print("\n| strategy, backward codes | median | worst | reach, edited | reach, kept |\n|---|---|---|---|---|")
    for name, codes in strategies(mean, one, layers, spread, run.num_codes):
        ratios = edit_ratios(render, w, codes.float(), 0)
        grams = mean.grams if codes.shape[1] == run.network.w_dim else layers
        reaches = [f"{reach(codes, gram, spread):.2g}" for gram in grams]
        print(f"| {name} | {float(ratios.median()):.2f} | {float(ratios.min()):.2f} | {' | '.join(reaches)} |", flush=True)
    for edited, direction in enumerate(("backward", "forward")):
        ratios = edit_ratios(render, w, tensors[direction], edited)
        reaches = [f"{reach(tensors[direction], mean.grams[side], spread):.2g}" for side in (edited, 1 - edited)]
        figures = f"{float(ratios.median()):.2f} | {float(ratios.min()):.2f} | {' | '.join(reaches)}"
        print(f"| {direction} codes of the run ({run.codes.method}) | {figures} |", flush=True)
        assert float(ratios.median()) >= 6 and float(ratios.min()) >= 4
