"""What all tests share: one thread for torch, and warnings of our own code as errors."""

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Small networks gain nothing from threads, and other work may share the machine."""
    torch.set_num_threads(1)
    for ours in ("mvgan", "jobs"):
        config.addinivalue_line("filterwarnings", rf"error:::{ours}(\..*)?$")
