"""Keeps the scheduler of Ray Data from spinning. The one place that touches a private part of Ray."""

import time
from typing import Any

import ray
from ray.data import DataContext


try:
    from ray.data._internal.execution.execution_callback import ExecutionCallback
except ImportError as error:
    raise ImportError(
        f"Ray {ray.__version__} has no ray.data._internal.execution.execution_callback, by which mvgan paces Ray Data; "
        "install the Ray that pyproject.toml names"
    ) from error


STEP_S = 0.02
"""Least time between two scheduling steps of a stream."""


class Pace(ExecutionCallback):
    """Waits at each scheduling step.

    A stream is scheduled by a thread of the worker that reads it. While decoding is ahead of training there is nothing
    to schedule, but the thread loops without a pause and holds the interpreter's lock: training was 3 times slower.
    """

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(STEP_S)


def set_pace(context: DataContext) -> None:
    """Pace the streams of a dataset with this context. Raises RuntimeError when this Ray would not heed it."""
    # Ray calls a method of this name; under another one it would be left alone, and training slow without a sign of it.
    if not (hasattr(context, "custom_execution_callback_classes") and hasattr(ExecutionCallback, "on_execution_step")):
        raise RuntimeError(f"Ray {ray.__version__} takes no callback at each scheduling step; install the Ray that pyproject.toml names")
    context.custom_execution_callback_classes = [Pace]
