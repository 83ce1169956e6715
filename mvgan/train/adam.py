"""The optimizer of all networks."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Adam(torch.optim.Adam):
    """Adam as one fused kernel, which leaves out a step where `found_inf` says so, a scalar on the device: 1 for yes, 0 for no.

    On a CPU that kernel walks through memory as it lies: gradients and moments are given the layout of their parameter first.
    """

    found_inf: Tensor

    def __init__(self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=1e-8, fused=True)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step, or leave it out."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = _laid_out(parameter.grad, parameter)
        super().step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, here or of a kernel that is not fused."""
        groups = [group | {"fused": True, "foreach": None} for group in state_dict["param_groups"]]
        super().load_state_dict(state_dict | {"param_groups": groups})
        for parameter, state in self.state.items():
            self.state[parameter] = {key: _laid_out(value, parameter) if value.ndim else value for key, value in state.items()}


def _laid_out(values: Tensor, parameter: Tensor) -> Tensor:
    """The values in the memory layout of `parameter`."""
    return values if values.stride() == parameter.stride() else torch.empty_like(parameter).copy_(values)
