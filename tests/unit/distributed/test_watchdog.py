"""What is told of the workers of an attempt, without Ray."""

from mvgan.distributed.watchdog import Begun, _places


def test_which_workers_run_where() -> None:
    begun = [Begun(0, rank, host, f"node of {host}", 0, None) for rank, host in ((2, "a"), (0, "b"), (1, "a"), (3, "b"))]
    assert _places(begun) == "workers 0, 3 on b; workers 1, 2 on a"
    assert _places(begun[:1]) == "worker 2 on a"
