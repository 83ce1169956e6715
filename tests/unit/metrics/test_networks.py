"""Feature networks by file: driven by the published calls, on uint8 samples; anything else is told in one line."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mvgan.config import InputError
from mvgan.metrics import networks
from mvgan.metrics.i3d import load_i3d, prepare
from mvgan.metrics.i3d_check import Identity
from mvgan.metrics.networks import KINDS, FeatureNetwork, NetworkFile, described
from tests.unit.metrics.i3d_files import random_i3d


class Published(nn.Module):
    """The call of StyleGAN-V's I3D file, with features that say what was done: means of each channel and frame count."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert x.dtype == torch.uint8 and x.size(1) == 3
        y = x.float()
        if resize:
            n, c, t, h, w = x.size()
            y = torch.nn.functional.interpolate(
                y.transpose(1, 2).reshape(n * t, c, h, w), size=[224, 224], mode="bilinear", align_corners=False
            )
            y = y.view(n, t, c, 224, 224).transpose(1, 2)
        if rescale:
            y = 2 * (y / 255) - 1
        features = torch.cat([y.mean([2, 3, 4]), torch.full([y.size(0), 1], float(y.size(2)))], 1)
        features = torch.nn.functional.pad(features, [0, 396])
        return features if return_features else features.softmax(1)


class Inception(nn.Module):
    """The call of StyleGAN2-ADA's Inception file: single frames, means of each channel."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert x.dtype == torch.uint8 and x.size(1) == 3 and x.dim() == 4
        features = torch.nn.functional.pad(x.float().mean([2, 3]), [0, 2045])
        return features if return_features else features.softmax(1)


class C3D(nn.Module):
    """The call of StyleGAN-V's C3D file: probabilities of 101 classes, here by the mean of the frames."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8 and x.size(1) == 3
        levels = x.float().mean([1, 2, 3, 4]) / 2.55
        return (-(levels[:, None] - torch.arange(101)).abs()).softmax(1)


class OtherCall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class OtherOutput(nn.Module):
    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        return x.float()


class Raising(nn.Module):
    """Its own check fails, as that of a network for other clips does."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert x.size(2) == 77, "77 frames are needed"
        return x.float()


class NoProbabilities(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones([x.size(0), 101])


def saved(network: nn.Module, path: Path) -> NetworkFile:
    torch.jit.script(network).save(str(path))
    return NetworkFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def clips(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_published_call_for_clips(tmp_path: Path) -> None:
    """Reference: means in numpy (a bilinear resize by a whole factor keeps them nearly), over the border of a batch."""
    x = clips(11)
    found = FeatureNetwork("clips", saved(Published(), tmp_path / "i3d.pt"))(x)
    expected = (x.numpy().astype(float) / 255 * 2 - 1).mean((1, 3, 4))
    assert found.shape == (11, 400) and found.dtype == torch.float32
    torch.testing.assert_close(found[:, :3].double(), torch.from_numpy(expected), rtol=0, atol=0.02)
    assert (found[:, 3] == 6).all()
    for shape in ((2, 6, 1, 16, 16), (6, 3, 16, 16)):
        with pytest.raises(ValueError, match="expected samples uint8"):
            FeatureNetwork("clips", saved(Published(), tmp_path / "i3d.pt"))(torch.zeros(shape, dtype=torch.uint8))


def test_the_published_call_for_pairs_and_classes(tmp_path: Path) -> None:
    """Reference: means in numpy, frame by frame; the class that lies nearest to a clip's mean."""
    x = clips(11)
    pairs = FeatureNetwork("pairs", saved(Inception(), tmp_path / "inception.pt"))(x[:, :2])
    assert pairs.shape == (11, 2, 2048)
    torch.testing.assert_close(pairs[..., :3].double(), torch.from_numpy(x[:, :2].numpy().astype(float).mean((3, 4))), rtol=1e-5, atol=0)
    classes = FeatureNetwork("classes", saved(C3D(), tmp_path / "c3d.pt"))(x)
    assert classes.shape == (11, 101)
    assert classes.argmax(1).tolist() == (x.numpy().astype(float).mean((1, 2, 3, 4)) / 2.55).round().astype(int).tolist()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_i3d(0)


def known_as(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a file holds is taken for this network's."""
    monkeypatch.setattr(networks, "identify", lambda tensors: Identity(network, dict(tensors), []))
    described.cache_clear()


def test_weights_alone_must_be_those_of_fvd(weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the network that they were taken from, on clips prepared as it takes them."""
    save_file(weights, tmp_path / "i3d.safetensors")
    file = NetworkFile(str(tmp_path / "i3d.safetensors"), hashlib.sha256((tmp_path / "i3d.safetensors").read_bytes()).hexdigest())
    for use in (FeatureNetwork, described):
        with pytest.raises(InputError, match=r"is not the I3D of FVD: 230 of its variables are missing or have other values, first Conv3d"):
            use("clips", file)
    known_as("fvd", monkeypatch)
    x = torch.randint(0, 256, (1, 9, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        expected = load_i3d(weights)(prepare(x.transpose(1, 2)))
    assert expected.std() > 0.01
    torch.testing.assert_close(FeatureNetwork("clips", file)(x), expected)
    with pytest.raises(InputError, match="does not take"):
        FeatureNetwork("clips", file)(x[:, :8])
    proven, prepares = described("clips", file)
    assert proven == f"{file.uri} (I3D Kinetics-400 by all its weights, and what it computes: FVD)" and prepares.startswith("bilinear")
    known_as("rgb_imagenet", monkeypatch)
    with pytest.raises(InputError, match="which gives plausible but wrong FVDs"):
        described("clips", file)
    with pytest.raises(InputError, match="it is rgb_imagenet"):
        FeatureNetwork("clips", file)


def test_right_weights_that_compute_something_else_are_refused(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchScript holds code beside its weights: the features count."""
    file = saved(Published(), tmp_path / "i3d.pt")
    monkeypatch.setattr(networks, "identify", lambda tensors: Identity("fvd", weights, []))
    described.cache_clear()
    with pytest.raises(InputError, match="holds the weights of FVD's I3D, but its features differ"):
        described("clips", file)
    described.cache_clear()


def test_other_files_are_told_in_one_line(tmp_path: Path) -> None:
    good = saved(Published(), tmp_path / "good.pt")
    (tmp_path / "text.pt").write_text("no network")
    text = NetworkFile(str(tmp_path / "text.pt"), hashlib.sha256(b"no network").hexdigest())
    inception = saved(Inception(), tmp_path / "inception.pt")
    cases = [
        (lambda: FeatureNetwork("clips", NetworkFile(str(tmp_path / "none.pt"), "0")), "there is no file"),
        (lambda: FeatureNetwork("clips", NetworkFile(str(tmp_path), "0")), "there is no file"),
        (lambda: FeatureNetwork("clips", NetworkFile(good.uri, "0" * 64)), f"has sha256 {good.sha256}, expected 0000"),
        (lambda: FeatureNetwork("pairs", text), "is no TorchScript file"),
        (lambda: FeatureNetwork("clips", text), "is neither TorchScript nor safetensors"),
        (lambda: FeatureNetwork("clips", saved(OtherCall(), tmp_path / "call.pt"))(clips(2)), "does not take uint8"),
        (lambda: FeatureNetwork("clips", inception)(clips(2)), "does not take uint8"),
        (lambda: FeatureNetwork("classes", good)(clips(2)), r"gives \[2, 400\] for 2 samples, expected finite \[2, 101\]"),
        (
            lambda: FeatureNetwork("clips", saved(OtherOutput(), tmp_path / "output.pt"))(clips(2)),
            r"gives \[2, 3, 6, 16, 16\] for 2 samples",
        ),
        (lambda: FeatureNetwork("classes", saved(NoProbabilities(), tmp_path / "none.pt"))(clips(2)), "gives no probabilities"),
    ]
    assert set(KINDS) == {"clips", "pairs", "classes"}
    for run, message in cases:
        with pytest.raises(InputError, match=message) as error:
            run()
        assert "\n" not in str(error.value)
