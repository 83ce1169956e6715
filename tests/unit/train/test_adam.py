"""The fused optimizer against torch's own loop over parameters, and states that went through it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvgan.train.adam import Adam


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(parameter.shape, generator=generator) for parameter in net().parameters()]


def contiguous(state: dict[str, Any]) -> dict[str, Any]:
    """A copy whose moments lie in memory as in a network that is not in channels_last."""
    return state | {
        "state": {key: {name: value.clone().contiguous() for name, value in some.items()} for key, some in state["state"].items()}
    }


def train(net: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        for parameter, grad in zip(net.parameters(), gradients(step), strict=True):
            parameter.grad = grad if isinstance(optimizer, Adam) else torch.empty_like(parameter).copy_(grad)
        if isinstance(optimizer, Adam):
            optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()


def test_it_is_adam() -> None:
    """Reference: torch's loop, one parameter at a time, for gradients that lie in memory otherwise than weights do."""
    ours, theirs = net(), net()
    train(ours, Adam(ours.parameters(), 0.01, (0.3, 0.99)), range(20))
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.3, 0.99), eps=1e-8, foreach=False), range(20))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kept", [{"fused": True}, {"foreach": True}, {}])
def test_states_of_other_kernels_go_on(kept: dict[str, bool]) -> None:
    """A commit may be of a version that had another; it goes on fused, and so leaves out a step when it is told to."""
    ours, theirs = net(), net()
    other = torch.optim.Adam(theirs.parameters(), lr=0.02, betas=(0.3, 0.99), eps=1e-8, **kept)
    train(theirs, other, range(4))
    ours.load_state_dict(theirs.state_dict())
    optimizer = Adam(ours.parameters(), 0.01, (0.0, 0.5))
    optimizer.load_state_dict(contiguous(other.state_dict()))
    train(theirs, other, range(4, 8))
    train(ours, optimizer, range(4, 8))
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    before = [parameter.clone() for parameter in ours.parameters()]
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(one, two) for one, two in zip(before, ours.parameters(), strict=True))
