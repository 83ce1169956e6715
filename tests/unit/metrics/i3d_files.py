"""I3D networks with random weights, the table that belongs to them, and the files that hold such weights."""

import io
import warnings

import google_crc32c
import numpy as np
import torch
from torch import Tensor, nn

from mvgan.metrics.i3d import I3D, load_i3d
from mvgan.metrics.i3d_check import Variable


EQUAL = ("Mixed_3b/Branch_0/Conv3d_0a_1x1/batch_norm/beta", "Mixed_3c/Branch_3/Conv3d_0b_1x1/batch_norm/beta")
"""Two variables of random_i3d that have the same values."""


def random_i3d(seed: int) -> dict[str, Tensor]:
    """Variables by their published names, in torch's layout, of sizes that keep the responses of all layers about even."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in I3D().state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith(".w"):
            values *= (2 / tensor[0].numel()) ** 0.5
        elif name.endswith("moving_variance"):
            values = values.abs() + 0.5
        else:
            values *= 0.1
        found[name.replace(".", "/")] = values
    found[EQUAL[1]] = found[EQUAL[0]].clone()
    return found


def in_tf(tensor: Tensor) -> np.ndarray:
    """[cout, cin, kt, kh, kw] as [kt, kh, kw, cin, cout]; all others as they are."""
    values = tensor.numpy()
    return np.ascontiguousarray(np.transpose(values, (2, 3, 4, 1, 0)) if values.ndim == 5 else values)


def table(fvd: dict[str, Tensor], rgb_imagenet: dict[str, Tensor]) -> tuple[Variable, ...]:
    """What i3d_check.variables gives, for networks with these variables."""
    networks = {"fvd": fvd, "rgb_imagenet": rgb_imagenet}
    crcs = {name: {network: google_crc32c.value(in_tf(found[name]).tobytes()) for network, found in networks.items()} for name in fvd}
    return tuple(Variable(name, in_tf(fvd[name]).shape, crcs[name]) for name in sorted(fvd))


class Holder(nn.Module):
    """A network of another make: other names and order, batch norm in five dimensions, and tensors that I3D has not."""

    def __init__(self, variables: dict[str, Tensor]) -> None:
        super().__init__()
        for index, name in enumerate(sorted(variables, key=lambda name: name[::-1])):
            tensor = variables[name]
            self.register_buffer(f"layer{index}", tensor if tensor.ndim == 5 else tensor.view(1, -1, 1, 1, 1))
        self.register_buffer("ones", torch.ones(64))
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return x


class _Published(nn.Module):
    """The call of StyleGAN-V's file around a network of square clips of 16 frames."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        y = x.float()
        if resize:
            n, c, t = y.size(0), y.size(1), y.size(2)
            y = nn.functional.interpolate(y.reshape(n, c * t, y.size(3), y.size(4)), size=[224, 224], mode="bilinear", align_corners=False)
            y = y.reshape(n, c, t, 224, 224)
        if rescale:
            y = 2 * (y / 255) - 1
        logits = self.network(y) * self.factor
        return logits if return_features else logits.softmax(1)


def published(variables: dict[str, Tensor], factor: float = 1.0) -> bytes:
    """A TorchScript file with the call of StyleGAN-V's that computes I3D, times `factor`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that checks of shapes hold for this shape only
        traced = torch.jit.trace(load_i3d(variables), torch.zeros(1, 3, 16, 224, 224))
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(_Published(traced, factor)), buffer)
    return buffer.getvalue()


def torchscript(variables: dict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Holder(variables)), file)
    return file.getvalue()


def with_one_bit_changed(variables: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    changed = variables[name].clone()
    changed.view(torch.int32).flatten()[-1] ^= 1
    return variables | {name: changed}
