"""Files that people look at while a run goes on, written beside training."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from mvgan.storage.uri import Store


class Outbox:
    """Writes files of a run's folder in a thread, one after another; of a file that waits only its newest content is written.

    Training neither waits for such a write nor ends when it fails: the failure is said, and what counts is in the commits.
    """

    def __init__(self, store: Store, say: Callable[[str], None]) -> None:
        self.store, self.say = store, say
        self._lock = threading.Lock()
        self._waiting: dict[str, bytes] = {}
        self._writes: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1, "outbox")

    def put(self, path: str, data: bytes) -> None:
        """Have `data` written to `path` soon."""
        with self._lock:
            waits = path in self._waiting
            self._waiting[path] = data
        if not waits:
            self._writes.append(self._thread.submit(self._write, path))

    def flush(self, seconds: float) -> None:
        """Wait until all files were written, or could not be, for so long at most; says so when time was too short."""
        writes, self._writes = self._writes, []
        done, late = wait(writes, timeout=seconds)
        if late:
            self.say(f"{self.store.uri}: {len(late)} files for people wait for the storage for over {seconds:g} s; going on without them")
        for write in done:
            write.result()

    def leave(self, seconds: float) -> None:
        """Write what waits, for so long at most, and end the thread; 0 drops what waits."""
        try:
            if seconds:
                self.flush(seconds)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _write(self, path: str) -> None:
        with self._lock:
            data = self._waiting.pop(path)
        try:
            self.store.write(path, data)
        except Exception as error:  # a storage's library has classes of its own
            self.say(f"{self.store.uri}/{path} could not be written: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """What an error says, or its name if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
