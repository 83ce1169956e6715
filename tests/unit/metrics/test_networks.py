"""Feature networks by file: driven by the published call, on uint8 clips; anything else is told in one line."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mvgan.config import InputError
from mvgan.metrics.networks import ClipNetwork, NetworkFile


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
        return features if return_features else features.softmax(1)


class OtherCall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class OtherOutput(nn.Module):
    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        return x.float()


def saved(network: nn.Module, path: Path) -> NetworkFile:
    torch.jit.script(network).save(str(path))
    return NetworkFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def clips(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_published_call(tmp_path: Path) -> None:
    """Reference: means in numpy (a bilinear resize by a whole factor keeps them nearly), over the border of a batch."""
    x = clips(11)
    found = ClipNetwork(saved(Published(), tmp_path / "i3d.pt"))(x)
    expected = (x.numpy().astype(float) / 255 * 2 - 1).mean((1, 3, 4))
    assert found.shape == (11, 4) and found.dtype == torch.float32
    torch.testing.assert_close(found[:, :3].double(), torch.from_numpy(expected), rtol=0, atol=0.02)
    assert (found[:, 3] == 6).all()
    for shape in ((2, 6, 1, 16, 16), (6, 3, 16, 16)):
        with pytest.raises(ValueError, match="expected clips uint8"):
            ClipNetwork(saved(Published(), tmp_path / "i3d.pt"))(torch.zeros(shape, dtype=torch.uint8))


def test_other_files_are_told_in_one_line(tmp_path: Path) -> None:
    good = saved(Published(), tmp_path / "good.pt")
    (tmp_path / "text.pt").write_text("no network")
    text = NetworkFile(str(tmp_path / "text.pt"), hashlib.sha256(b"no network").hexdigest())
    cases = [
        (lambda: ClipNetwork(NetworkFile(str(tmp_path / "none.pt"), "0")), "there is no feature network"),
        (lambda: ClipNetwork(NetworkFile(str(tmp_path), "0")), "there is no feature network"),
        (lambda: ClipNetwork(NetworkFile(good.uri, "0" * 64)), f"has sha256 {good.sha256}, expected 0000"),
        (lambda: ClipNetwork(text), "is no TorchScript file"),
        (lambda: ClipNetwork(saved(OtherCall(), tmp_path / "call.pt"))(clips(2)), "does not take uint8"),
        (lambda: ClipNetwork(saved(OtherOutput(), tmp_path / "output.pt"))(clips(2)), r"gives \[2, 3, 6, 16, 16\] for 2 clips"),
    ]
    for run, message in cases:
        with pytest.raises(InputError, match=message) as error:
            run()
        assert "\n" not in str(error.value)
