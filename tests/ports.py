"""Ports for the servers of tests."""

import random
import socket
from contextlib import suppress


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens on.

    A server binds its port seconds later. So they are not of those that the system gives to whoever asks for any (from 32768), nor of
    those of Ray's workers (10002 to 19999), and drawn at random, as tests run in several processes.
    """
    found: set[int] = set()
    while len(found) < number:
        port = random.SystemRandom().randrange(20000, 32000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)
