"""Seeded features of pairs: fixed, and sensitive to what a pair generator can get wrong."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mvgan.metrics.features import CONTENT, PairFeatures
from mvgan.metrics.frechet import frechet_distance
from mvgan.metrics.moments import Moments


torch.set_num_threads(1)


def pairs(n: int, seed: int, size: int = 32, motion: float = 0.05) -> Tensor:
    """Coloured blobs that shift a little between the frames: uint8 [n, 2, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    colour, back = torch.rand(2, n, 1, 3, 1, 1, generator=generator) * torch.tensor([1.0, 0.8, 0.5]).view(3, 1, 1)
    centre = torch.rand(n, 1, 2, generator=generator) * 0.6 - 0.3
    shift = torch.randn(n, 1, 2, generator=generator) * motion
    x, y = ((torch.cat([centre, centre + shift], 1)[..., i])[:, :, None, None, None] for i in (0, 1))
    axis = torch.linspace(-1, 1, size)
    mask = torch.sigmoid(20 * (0.4 - ((axis.view(1, 1, 1, 1, -1) - x) ** 2 + (axis.view(1, 1, 1, -1, 1) - y) ** 2).sqrt()))
    return (255 * (mask * colour + (1 - mask) * (0.5 + 0.5 * back))).round().byte()


def distance(a: Tensor, b: Tensor) -> float:
    features = PairFeatures()
    return frechet_distance(Moments.of(features(a)), Moments.of(features(b)))


def swapped(x: Tensor) -> Tensor:
    """Content of one pair, change of brightness of another: both frames alone stay as they were in the mean."""
    y = x.clone()
    y[:, 1] = x[:, 1].roll(1, 0)
    return y


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.flip(2),  # colour
        lambda x: x.roll(8, -1),  # layout
        lambda x: F.avg_pool2d(x.float().flatten(0, 2)[:, None], 7, 1, 3).view(x.shape).byte(),  # sharpness
        lambda x: x[:, :1].expand(-1, 2, -1, -1, -1),  # no motion: the former frame twice
        swapped,  # frames that do not belong together
        lambda x: torch.stack([x[:, 0], (x[:, 1].float() + 6).clamp(max=255).byte()], 1),  # flicker
    ],
    ids=["colour", "layout", "sharpness", "still", "strangers", "flicker"],
)
def test_distance_sees_the_change(change: object) -> None:
    real, other = pairs(512, 0), pairs(512, 1)
    floor = distance(real, other)
    assert distance(real, change(other)) > 2 * floor  # type: ignore[operator]


def test_features_do_not_depend_on_batch_form_or_state() -> None:
    x = pairs(10, 0)
    features = PairFeatures(seed=3)
    whole = features(x)
    torch.manual_seed(99)
    assert whole.shape == (10, PairFeatures.dim) and whole.dtype == torch.float32
    assert torch.allclose(PairFeatures(seed=3)(x, batch=3), whole, atol=1e-5)
    assert torch.allclose(features(x.float() / 127.5 - 1), whole, atol=1e-5)
    assert not torch.allclose(PairFeatures(seed=4)(x), whole, atol=0.1)
    still = features(x[:, :1].expand(-1, 2, -1, -1, -1))[:, CONTENT:]
    assert torch.allclose(still, still[:1].expand_as(still), atol=1e-6)


def test_large_frames_are_averaged_down() -> None:
    x = pairs(4, 0, size=256)
    small = F.avg_pool2d((x.float() / 127.5 - 1).flatten(1, 2), 4).unflatten(1, (2, 3))
    assert torch.allclose(PairFeatures()(x), PairFeatures()(small), atol=1e-4)


def test_weights_are_fixed() -> None:
    """numpy's Philox: recorded, so that figures of different versions stay comparable."""
    features = PairFeatures()
    first = features._content._weights[0].contiguous().numpy()
    digest = hashlib.sha256(first.round(4).tobytes()).hexdigest()
    assert digest == "14c45c3021d1a45fe463c8d5c99356391cf7a4043c19efc423252c5cc342a611"


def test_frames_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected frame pairs"):
        PairFeatures()(torch.zeros(2, 6, 32, 32))
