"""All of mvgan that knows Ray: thin shells around the functions that compute."""

import os
import secrets
import sys


# Ray reads these when it is first imported.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # its default of 2 s delays the end of every stage
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# Ray ends a process that has been idle for 1 s, and a decoding task that needs one again pays seconds for its imports.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "30000")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_task_oom_retries", "2")  # its default is to repeat for ever a task that its node has no memory for
if not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules:  # once Ray is imported, it and its processes would disagree
    # A cluster of our own on this machine: closed to whoever else reaches its ports, with a token on no disk.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
