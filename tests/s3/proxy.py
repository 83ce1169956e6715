"""A proxy before the S3 server that makes requests fail, so that every fault of a network can be said in a test.

It knows HTTP, since some faults cannot be told by bytes: "the upload was completed and its answer got lost". Requests pass
through unchanged, `Host` included (their signature covers it), each on a connection of its own to the server.
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit


Fault = Literal["status", "reset", "hang", "hold", "latency", "truncate", "lost_ack"]
"""What can happen to a request:

- status: it is answered by `status` and never reaches the server;
- reset: the connection is reset, the request never reaches the server;
- hang: no answer for `seconds`, then a reset; the request never reaches the server;
- hold: once it has wholly left the client it waits until the test calls `Rule.release`, then goes on to the server;
- latency: it waits for `seconds`, then goes on to the server;
- truncate: the server's answer ends early, after `keep` bytes of its body but at most half of it, and the connection closes;
- lost_ack: the server does what was asked, and the connection is reset before its answer.
"""

Result = TypeVar("Result")
REASONS = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}
LONGEST_HEAD = 1 << 20


@dataclass
class Rule:
    """A fault, and the requests that it strikes: of those with `method` whose target matches `match`, all but the first
    `skip`, at most `count`, each with `probability`."""

    fault: Fault
    method: str | None = None
    match: str = ""
    skip: int = 0
    count: int | None = None
    probability: float = 1.0
    status: int = 503
    seconds: float = 0.5
    keep: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    """Set once the rule has struck, and what it holds is whole."""
    answered: threading.Event = field(default_factory=threading.Event)
    """Set once the server has answered a request that the rule struck and let through."""
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let the requests go that the rule holds."""
        self._released.set()

    def strikes(self, method: str, target: str, draw: random.Random) -> bool:
        """Whether this request is struck; counts it."""
        if self.method not in (None, method) or not re.search(self.match, target):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.count == 0 or draw.random() >= self.probability:
            return False
        if self.count is not None:
            self.count -= 1
        return True


@dataclass(frozen=True)
class Request:
    """A request that came by."""

    method: str
    target: str
    fault: Fault | None


@dataclass(frozen=True)
class _Head:
    """The first line of a request or an answer and its headers, as received."""

    raw: bytes

    @property
    def words(self) -> list[str]:
        return self.raw.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)

    @property
    def status(self) -> int:
        return int(self.words[1])

    def header(self, name: str) -> str:
        found = re.search(rb"(?im)^%s:[ \t]*(.*?)[ \t]*\r$" % name.encode(), self.raw)
        return found[1].decode("latin-1").lower() if found else ""


class FaultProxy:
    """The proxy before the server at `upstream` (a URL), in a thread of its own, on a free port of loopback."""

    def __init__(self, upstream: str, seed: int = 0) -> None:
        url = urlsplit(upstream)
        self._upstream = (url.hostname, url.port)
        self._draw = random.Random(seed)
        self._rules: list[Rule] = []
        self._log: list[Request] = []
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LONGEST_HEAD))
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def fail(self, *rules: Rule) -> None:
        """Put `rules` in force instead of those before; of several, the first that strikes a request counts."""
        with self._lock:
            self._rules = list(rules)

    def heal(self) -> None:
        """No more faults. What is held or hanging stays so."""
        self.fail()

    def requests(self, clear: bool = False) -> list[Request]:
        """All requests so far, in order of arrival, since the last call with `clear`."""
        with self._lock:
            found = list(self._log)
            if clear:
                self._log.clear()
            return found

    def stop(self) -> None:
        """Close everything."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _struck(self, method: str, target: str) -> Rule | None:
        with self._lock:
            rule = next((rule for rule in self._rules if rule.strikes(method, target, self._draw)), None)
            self._log.append(Request(method, target, rule.fault if rule else None))
            return rule

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client: its requests, one after the other. A broken connection on either side ends both."""
        try:
            while await self._handle(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):  # the last one by `stop`
            writer.transport.abort()
        finally:
            writer.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; returns whether the connection can take another."""
        head = _Head(await reader.readuntil(b"\r\n\r\n"))
        rule = self._struck(head.words[0], head.words[1])
        if rule is None:
            return await self._pass_on(head, _body(head, reader), None, writer)
        body = _body(head, reader)
        if rule.fault == "hold":
            body = await _whole(head, body, writer)
        rule.reached.set()
        if rule.fault in ("hang", "latency"):
            await asyncio.sleep(rule.seconds)
        while rule.fault == "hold" and not rule._released.is_set():
            await asyncio.sleep(0.005)
        if rule.fault in ("reset", "hang"):
            _reset(writer)
            return False
        if rule.fault == "status":
            await _refuse(head, body, rule.status, writer)
            return False
        return await self._pass_on(head, body, rule, writer)

    async def _pass_on(self, head: _Head, body: AsyncIterator[bytes], rule: Rule | None, writer: asyncio.StreamWriter) -> bool:
        above, below = await asyncio.open_connection(*self._upstream, limit=LONGEST_HEAD)
        sending = asyncio.create_task(_send(head, body, below))
        try:
            answer = _Head(await above.readuntil(b"\r\n\r\n"))
            while answer.status == 100:
                if not sending.done():  # else the client has sent all it has to send
                    writer.write(answer.raw)
                    await writer.drain()
                answer = _Head(await above.readuntil(b"\r\n\r\n"))
            if rule is not None:
                rule.answered.set()
            whole = sending.done()  # a server that refuses early does not wait for the body
            if rule is not None and rule.fault == "lost_ack":
                _reset(writer)
                return False
            bodiless = head.words[0] == "HEAD" or answer.status in (204, 304)
            if rule is not None and rule.fault == "truncate":
                await _cut(answer, [] if bodiless else [piece async for piece in _body(answer, above)], rule.keep, writer)
                return False
            writer.write(answer.raw)
            if not bodiless:
                async for piece in _body(answer, above):
                    writer.write(piece)
                    await writer.drain()
            await writer.drain()
            return whole and "close" not in (answer.header("connection"), head.header("connection"))
        finally:
            sending.cancel()
            below.close()


async def _refuse(head: _Head, body: AsyncIterator[bytes], status: int, writer: asyncio.StreamWriter) -> None:
    if head.header("expect") != "100-continue":
        async for _ in body:  # else the client is still sending, and sees a broken pipe
            pass
    reason = REASONS.get(status, "InternalError")
    text = f"<?xml version='1.0'?><Error><Code>{reason}</Code><Message>made by the fault proxy</Message></Error>".encode()
    writer.write(b"HTTP/1.1 %d %s\r\nContent-Type: application/xml\r\nConnection: close\r\n" % (status, reason.encode()))
    writer.write(b"Content-Length: %d\r\n\r\n" % len(text) + (b"" if head.words[0] == "HEAD" else text))
    await writer.drain()


async def _send(head: _Head, body: AsyncIterator[bytes], below: asyncio.StreamWriter) -> None:
    below.write(head.raw)
    while True:
        try:
            piece = await anext(body, None)
        except (ConnectionError, asyncio.IncompleteReadError):
            below.transport.abort()  # the client has gone: the server must not wait for the rest
            return
        if piece is None:
            return
        try:
            below.write(piece)
            await below.drain()
        except ConnectionError:
            return  # the server has refused and closed; its answer says so


async def _whole(head: _Head, body: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
    """`body`, once all of it has come; a client that asks before it sends is told to go on."""
    if head.header("expect") == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    return _pieces([piece async for piece in body])


async def _pieces(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _body(head: _Head, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body behind `head` as it is on the wire, with its chunk marks."""
    if "chunked" in head.header("transfer-encoding"):
        size = -1
        while size != 0:
            mark = await reader.readuntil(b"\r\n")
            size = int(mark.split(b";")[0], 16)
            yield mark
            if size:
                yield await reader.readexactly(size + 2)
        line = b""
        while line != b"\r\n":  # trailers, if any
            line = await reader.readuntil(b"\r\n")
            yield line
        return
    left = int(head.header("content-length") or 0)
    while left:
        piece = await reader.read(min(left, 1 << 16))
        if not piece:
            raise ConnectionError("the body ended early")
        left -= len(piece)
        yield piece


async def _cut(answer: _Head, pieces: list[bytes], keep: int | None, writer: asyncio.StreamWriter) -> None:
    body = b"".join(pieces)
    if not body:
        _reset(writer)  # an answer without a body has nothing that could be cut short
        return
    writer.write(answer.raw + body[: min(len(body) // 2, len(body) if keep is None else keep)])
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset, and no orderly end."""
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def sometimes(probability: float, *rules: Rule) -> list[Rule]:
    """`rules`, so that each request meets one of them with `probability` in all, every one as likely as the others."""
    share, left = probability / len(rules), 1.0
    for rule in rules:
        rule.probability = share / left  # a rule sees only what those before it let pass
        left -= share
    return list(rules)
