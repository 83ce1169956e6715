"""The Inception Score of class probabilities (Salimans et al. 2016), with its standard error."""

from typing import NamedTuple

import torch
from torch import Tensor


class InceptionScore(NamedTuple):
    """Mean over the splits, and the standard error of that mean."""

    mean: float
    error: float


def inception_score(probabilities: Tensor, splits: int = 10, seed: int = 42) -> InceptionScore:
    """exp E_x KL(p(y|x) | p(y)) over `splits` parts of the shuffled samples, p(y) being the mean over the part.

    probabilities [n, classes], rows that sum to 1, n >= splits >= 2. The reference code gives numpy's standard deviation over
    10 splits, which is 3 times the error given here. Raises ValueError for anything else.
    """
    p = probabilities.detach().cpu().double()
    if p.ndim != 2 or not len(p) >= splits >= 2:
        raise ValueError(f"expected [n, classes] with n >= splits >= 2, got {list(p.shape)} and {splits} splits")
    if not ((p >= 0).all() and ((p.sum(1) - 1).abs() <= 1e-4).all()):  # said so that NaN is refused too
        raise ValueError("expected probabilities: rows of at least 0 that sum to 1")
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
    scores = torch.stack([_score(part) for part in p[order].tensor_split(splits)])
    return InceptionScore(float(scores.mean()), float(scores.std() / splits**0.5))


def _score(p: Tensor) -> Tensor:
    # xlogy has 0 log 0 = 0, as a class that is never predicted should count.
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))).sum(1)
    return divergence.mean().exp()
