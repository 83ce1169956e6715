"""What a step knows of its place in the run: progress, and randomness drawn from it."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


UNITS = {"pairs": "pairs", "video": "clips"}
"""What a stage counts as its images."""


@dataclass(frozen=True)
class Progress:
    """How far a stage has come. `images` counts pairs, or clips in stage 3.

    All that depends on the place in a run follows from `images`: randomness (Draws), phases that are not due at every
    step and ramps (PairStage.step), and the windows of data (session.window_order, session.batches_from_windows).
    """

    images: int = 0
    elapsed_s: float = 0.0


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on all `parts`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Draws:
    """Random numbers of one step and purpose.

    They are drawn per logical shard from (seed, purpose, images, shard), so that no rank and no history
    enters: a resumed run and another number of workers draw the same numbers for the same samples.
    """

    def __init__(self, seed: int, purpose: str, images: int, shards: Sequence[int], group: int, device: torch.device) -> None:
        self.group, self.device = group, device
        self.generators = [torch.Generator(device).manual_seed(seed_of(seed, purpose, images, shard)) for shard in shards]

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.cat([draw(generator) for generator in self.generators])

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), [shards * group, *shape]."""
        return self._each(lambda g: torch.randn(self.group, *shape, generator=g, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """U(0, 1), [shards * group, *shape]."""
        return self._each(lambda g: torch.rand(self.group, *shape, generator=g, device=self.device))

    def noise(self, shapes: Mapping[int, int], repeats: int = 1) -> Callable[[int, int], Tensor]:
        """Noise maps for the layers of `shapes`, by index and resolution; `repeats` consecutive rows share a sample's map.

        Those of all layers are one draw a shard: one a layer would keep a GPU waiting for launches.
        """
        sizes = [resolution**2 for resolution in shapes.values()]
        maps = dict(zip(shapes, self.normal(sum(sizes)).split(sizes, dim=1), strict=True))
        return lambda layer, resolution: maps[layer].view(-1, 1, resolution, resolution).repeat_interleave(repeats, dim=0)


def snapshot(state: Any) -> Any:
    """A copy of a state dictionary on the CPU, which training that goes on in place does not change."""
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(snapshot, state))
    return state.detach().to("cpu", copy=True) if isinstance(state, Tensor) else state


def to_bytes(state: dict[str, Any]) -> bytes:
    """A state dictionary of tensors and plain values, as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state in `data`. Only tensors and plain values are accepted, so that loading runs no code."""
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    return state
