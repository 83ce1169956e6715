"""Feature networks that the user names by file and sha256: TorchScript with the call of the published I3D and C3D files.

Nothing is downloaded. A figure is an FVD only if the file is the I3D of its paper, which the hash alone cannot say.
"""

import hashlib
import io
from dataclasses import dataclass

import torch
from torch import Tensor

from mvgan.config import InputError
from mvgan.storage.uri import open_store


BATCH = 8
"""Clips at once: the network works on 224 px, whatever size they have."""


@dataclass(frozen=True)
class NetworkFile:
    """A TorchScript file at `uri` that is only used when it has `sha256`."""

    uri: str
    sha256: str

    def read(self) -> bytes:
        """Its bytes. Raises InputError when there is no such file, or another."""
        parent, _, name = self.uri.rpartition("/")
        try:
            data = open_store(parent or ("/" if self.uri.startswith("/") else ".")).read(name)
        except (FileNotFoundError, IsADirectoryError):
            raise InputError(f"there is no feature network {self.uri}; give the path or s3:// URI of a TorchScript file") from None
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256.lower():
            raise InputError(
                f"feature network {self.uri} has sha256 {found}, expected {self.sha256}; give the file that belongs to the hash"
            )
        return data


class ClipNetwork:
    """Maps clips to features by a TorchScript network."""

    def __init__(self, file: NetworkFile, device: torch.device | str = "cpu") -> None:
        """Raises InputError for a file that is not TorchScript, beside what NetworkFile says."""
        data = file.read()
        try:
            network = torch.jit.load(io.BytesIO(data), map_location=device)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"feature network {file.uri} is no TorchScript file ({reason}); give one") from None
        self._network, self._file, self._device = network.eval(), file, device

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        """Features float32 [n, dim] on the CPU of clips uint8 [n, t, 3, h, w].

        The network gets uint8 [n, 3, t, h, w] with rescale, resize and return_features, and does those itself. Raises InputError
        when it takes no such call, or gives anything but finite [n, dim].
        """
        if clips.ndim != 5 or clips.shape[2] != 3 or clips.dtype != torch.uint8:
            raise ValueError(f"expected clips uint8 [n, t, 3, h, w], got {clips.dtype} {list(clips.shape)}")
        return torch.cat([self._features(part.to(self._device)) for part in clips.split(BATCH)])

    def _features(self, clips: Tensor) -> Tensor:
        try:
            features = self._network(clips.transpose(1, 2), rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            raise InputError(
                f"feature network {self._file.uri} does not take uint8 [n, 3, t, h, w] with rescale, resize and return_features "
                f"({lines[-1]}); give one with the call of StyleGAN-V's I3D file"
            ) from None
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(clips) or not features.isfinite().all():
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise InputError(
                f"feature network {self._file.uri} gives {shape} for {len(clips)} clips, expected finite [n, dim]; give another"
            )
        return features.float().cpu()
