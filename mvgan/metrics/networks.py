"""Feature networks that the user names by file and sha256, called as the published files of their kind are.

- clips: I3D, TorchScript with the call of StyleGAN-V's file, or the safetensors that `python -m jobs.features check` writes.
- pairs: Inception of 2015, TorchScript with the call of StyleGAN2-ADA's file.
- classes: C3D of UCF101, TorchScript with the call of StyleGAN-V's file.

Nothing is downloaded.
"""

import functools
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mvgan.config import InputError
from mvgan.metrics.features import full_precision
from mvgan.metrics.i3d import load_i3d, prepare
from mvgan.metrics.i3d_check import FVD, RGB_IMAGENET, Identity, identify, read_tensors_of
from mvgan.storage.uri import read_file


FRAMES = 128
"""Frames at once: the network works on 224 or 299 px, whatever size they have."""

SAME = 1e-2
"""Most that features of TorchScript may differ, relative, from those that mvgan's I3D computes with the same weights."""


@dataclass(frozen=True)
class NetworkFile:
    """A file at `uri` that is only used when it has `sha256`."""

    uri: str
    sha256: str

    def read(self) -> bytes:
        """Its bytes. Raises InputError when there is no such file, or another."""
        data = read_file(self.uri, "a feature network")
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256.lower():
            raise InputError(
                f"feature network {self.uri} has sha256 {found}, expected {self.sha256}; give the file that belongs to the hash"
            )
        return data


@dataclass(frozen=True)
class Kind:
    """How the networks of a measure are called."""

    takes: str
    """Its input and options, in words."""
    size: int
    """Numbers that it gives for each sample."""
    options: dict[str, bool]
    published: str
    """Whose call it is."""


KINDS = {
    "clips": Kind(
        "uint8 [n, 3, t, h, w] with rescale, resize and return_features",
        400,
        {"rescale": True, "resize": True, "return_features": True},
        "StyleGAN-V's I3D file",
    ),
    "pairs": Kind("uint8 [n, 3, h, w] with return_features", 2048, {"return_features": True}, "StyleGAN2-ADA's Inception file"),
    "classes": Kind("uint8 [n, 3, t, h, w]", 101, {}, "StyleGAN-V's C3D file"),
}
"""By the measure that they serve."""


class FeatureNetwork:
    """Maps samples of a measure to the features, or the class probabilities, of a file's network."""

    def __init__(self, measure: str, file: NetworkFile, device: torch.device | str = "cpu") -> None:
        """Raises InputError for a file that holds no network, or I3D weights that are not those of FVD, beside what NetworkFile says."""
        self._measure, self._kind, self._file, self._device = measure, KINDS[measure], file, device
        data = file.read()
        if measure == "clips" and not data.startswith(b"PK"):
            self._network: Callable[..., Tensor] = _of_weights(file, data, device)
        else:
            self._network = _of_torchscript(file, data, device)

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """Features float32 on the CPU of samples uint8 [n, t, 3, h, w]: [n, 400] of clips, [n, 2, 2048] of pairs, [n, 101] of classes.

        Raises InputError when the network takes no such call, or gives anything but finite numbers of that shape, of classes
        probabilities.
        """
        if samples.ndim != 5 or samples.shape[2] != 3 or samples.dtype != torch.uint8:
            raise ValueError(f"expected samples uint8 [n, t, 3, h, w], got {samples.dtype} {list(samples.shape)}")
        with full_precision():
            return torch.cat([self._features(part.to(self._device)) for part in samples.split(max(1, FRAMES // samples.shape[1]))])

    def _features(self, samples: Tensor) -> Tensor:
        if self._measure == "pairs":
            return self._called(samples.flatten(0, 1)).unflatten(0, (len(samples), -1))
        return self._called(samples.transpose(1, 2))

    def _called(self, x: Tensor) -> Tensor:
        try:
            features = self._network(x, **self._kind.options)
        except (RuntimeError, ValueError, torch.jit.Error) as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise  # no fault of the network
            reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise InputError(
                f"feature network {self._file.uri} does not take {self._kind.takes} ({reason}); "
                f"give one with the call of {self._kind.published}"
            ) from None
        size = self._kind.size
        if not isinstance(features, Tensor) or list(features.shape) != [len(x), size] or not features.isfinite().all():
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise InputError(
                f"feature network {self._file.uri} gives {shape} for {len(x)} samples, expected finite [{len(x)}, {size}] "
                f"as {self._kind.published} does; give another"
            )
        if self._measure == "classes" and not ((features >= 0).all() and ((features.sum(1) - 1).abs() < 1e-3).all()):
            raise InputError(f"feature network {self._file.uri} gives no probabilities: rows of at least 0 that sum to 1; give another")
        return features.float().cpu()


def _of_torchscript(file: NetworkFile, data: bytes, device: torch.device | str) -> Callable[..., Tensor]:
    try:
        network: Callable[..., Tensor] = torch.jit.load(io.BytesIO(data), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"feature network {file.uri} is no TorchScript file ({reason}); give one") from None
    return network


def _of_weights(file: NetworkFile, data: bytes, device: torch.device | str) -> Callable[..., Tensor]:
    """I3D from weights that are proven."""
    found = identify(read_tensors_of(data, file.uri))
    if found.network != FVD:
        raise InputError(f"feature network {file.uri} is not the I3D of FVD: {_other(found)}; see `python -m jobs.features check`")
    network = load_i3d(found.variables).to(device).eval().requires_grad_(False)
    return lambda clips, **_: network(prepare(clips))


def _other(found: Identity) -> str:
    if found.network == RGB_IMAGENET:
        return "it is rgb_imagenet"
    return f"{len(found.missing)} of its variables are missing or have other values, first {found.missing[0]}"


@functools.cache
def described(measure: str, file: NetworkFile) -> tuple[str, str]:
    """What features of `file` are, and how it prepares samples. Only those that FVD's own I3D gives are called FVD.

    Raises InputError, beside what FeatureNetwork says, for the I3D rgb_imagenet, and for TorchScript that holds the weights of FVD's
    and computes something else.
    """
    data, published = file.read(), KINDS[measure].published
    prepares = "rescaled and resized by the network" if data.startswith(b"PK") else "bilinear to 224 px, centre, to [-1, 1]"
    if measure != "clips":
        return f"{file.uri} (called as {published}; mvgan does not know its weights)", prepares
    found = identify(read_tensors_of(data, file.uri))
    if found.network == RGB_IMAGENET:
        raise InputError(f"feature network {file.uri} is the I3D rgb_imagenet, which gives plausible but wrong FVDs; give that of FVD")
    network = FeatureNetwork(measure, file)
    if found.network != FVD:
        return f"{file.uri} (not the I3D of FVD: not FVD)", prepares
    if other := difference(network, found):
        raise InputError(
            f"feature network {file.uri} holds the weights of FVD's I3D, but its features differ from what I3D computes with them by "
            f"{other:.2g}; keep its weights by `python -m jobs.features check --out`, and give those"
        )
    return f"{file.uri} (I3D Kinetics-400 by all its weights, and what it computes: FVD)", prepares


def difference(network: FeatureNetwork, found: Identity) -> float:
    """How far, relative, the features of `network` lie from those of mvgan's I3D with the weights `found` on clips; 0 below SAME."""
    i3d, worst = load_i3d(found.variables), 0.0
    for size in (64, 256):  # one is enlarged to 224 px, the other made smaller
        clip = torch.randint(0, 256, (1, 16, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        with torch.no_grad():
            expected = i3d(prepare(clip.transpose(1, 2)))
        worst = max(worst, float((network(clip) - expected).norm() / expected.norm()))
    return worst if worst > SAME else 0.0
