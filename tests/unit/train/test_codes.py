"""Stage 2 from what is kept of its latents: codes and the spread of mapped w."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mvgan.train.codes as stage
from mvgan.motion.codes import generalized_codes
from mvgan.storage.run import RunFolder, open_run
from mvgan.train.session import load_generator, spread_of


CPU = torch.device("cpu")


def test_codes_come_from_the_kept_latents_and_the_spread_of_mapped_w(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the generalised problem on the mean of the latents' Grams of equal trace, and numpy's covariance of many more mapped w."""
    torch.set_num_threads(1)
    shutil.copytree(tiny_run.uri, tmp_path / "run", ignore=shutil.ignore_patterns("codes", "video", "codes.*", "latent.*"))
    folder = open_run(str(tmp_path / "run"), tiny_run.run, tiny_run.data)
    latents = [stage.factorize(folder, index, CPU) for index in range(folder.run.latents)]
    monkeypatch.delattr(stage, "pair_grams")  # whoever computes anew fails from here on
    monkeypatch.delattr(stage, "factorize_latent")
    tensors, summary = stage.find(folder, CPU)
    assert summary["warnings"] == []
    grams = torch.stack([latent.sample.grams for latent in latents])
    traces = torch.einsum("nfjj->n", grams)
    mean = torch.einsum("nfij,n->fij", grams, traces.mean() / traces / len(grams))
    torch.testing.assert_close(tensors["mean_grams"], mean, rtol=1e-12, atol=0)
    spread = spread_of(load_generator(folder), folder.run)
    expected = generalized_codes(*mean, spread, folder.run.num_codes, folder.run.codes.epsilon).float()
    torch.testing.assert_close(tensors["backward"], expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        z = torch.from_numpy(np.random.default_rng(0).standard_normal((40_000, folder.run.network.z_dim))).float()
        covariance = np.cov(load_generator(folder).mapping(z).numpy(), rowvar=False)
    assert np.linalg.norm((spread @ spread.T).numpy() - covariance) < 0.1 * np.linalg.norm(covariance)


def test_what_did_not_converge_is_said(tiny_run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.uri, tmp_path / "run", ignore=shutil.ignore_patterns("codes", "video", "codes.*", "latent.*"))
    run = dataclasses.replace(tiny_run.run, codes=dataclasses.replace(tiny_run.run.codes, max_iterations=2))
    _, summary = stage.find(open_run(str(tmp_path / "run"), run, tiny_run.data), CPU)
    (line,) = summary["warnings"]
    assert line.startswith(f"{2 * (run.latents + 1)} of {2 * (run.latents + 1)} low-rank factorizations did not converge in 2 iterations")
    assert "--codes.max-iterations" in line
