"""The Inception Score against loops in numpy and closed forms."""

import numpy as np
import pytest
import torch

from mvgan.metrics.inception_score import inception_score


def test_equals_loops() -> None:
    """Reference: the sums of the definition, one sample and class at a time, over parts drawn alike."""
    logits = 2 * np.random.default_rng(0).standard_normal((57, 6))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = torch.randperm(57, generator=torch.Generator().manual_seed(42)).numpy()
    scores = []
    for part in np.array_split(p[order], 10):
        marginal = [sum(row[y] for row in part) / len(part) for y in range(6)]
        divergences = [sum(row[y] * (np.log(row[y]) - np.log(marginal[y])) for y in range(6)) for row in part]
        scores.append(np.exp(sum(divergences) / len(part)))
    found = inception_score(torch.from_numpy(p))
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.error == pytest.approx(np.std(scores, ddof=1) / 10**0.5, rel=1e-12)
    assert 3 * found.error == pytest.approx(np.std(scores), rel=1e-12)


def test_closed_forms() -> None:
    """Sure of its class, all classes alike often: as many as there are classes. Never sure: 1."""
    sure = torch.eye(4).repeat(500, 1)
    assert inception_score(sure, splits=2).mean == pytest.approx(4, rel=0.01)
    unsure = inception_score(torch.full((100, 4), 0.25))
    assert unsure.mean == pytest.approx(1, abs=1e-12) and unsure.error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (torch.zeros(20, 4), "sum to 1"),
        (torch.full((20, 4), torch.nan), "sum to 1"),
        (torch.tensor([[1.5, -0.5]] * 20), "sum to 1"),
        (torch.eye(4), "n >= splits"),
        (torch.ones(20), "n, c"),
    ],
)
def test_other_input_is_refused(probabilities: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inception_score(probabilities)
