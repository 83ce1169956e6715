"""A real S3 server for tests: Ceph's object gateway with the least it needs, a monitor and one storage daemon in memory.

Debian and Ubuntu: `apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common`. Emulators will not do
here: moto accepts wrong secrets and wrong checksums, and promises nothing about simultaneous requests.
"""

import json
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.ports import free_ports


PROGRAMS = {"radosgw": "radosgw", "radosgw-admin": "radosgw", "ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd",
            "ceph": "ceph-common", "ceph-authtool": "ceph-common", "monmaptool": "ceph-common"}  # fmt: skip
"""What the server consists of, and the package of each."""

START_S = 120.0
"""Bound on each step of the start; on two idle cores all of them take some 15 s."""

CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}/0
public addr = 127.0.0.1
keyring = {folder}/keyring
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
mon data = {folder}/mon
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 1000
mon warn on insecure global id reclaim allowed = false
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
run dir = {folder}
admin socket =
pid file =
log file = {folder}/$name.log
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
rgw max listing results = 100
"""

KEYS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "client.rgw": ("mon", "allow rw", "osd", "allow rwx"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
}
"""Who may do what; the secrets are drawn anew at each start."""


def missing_packages() -> list[str]:
    """The packages that must be installed before the server can run here."""
    return sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})


class S3Server:
    """A server of this process: `endpoint`, and the keys of its user `test`. It ends with `stop`, or with this process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mvgan-s3-"))
        mon_port, port = free_ports(2)
        self.endpoint = f"http://127.0.0.1:{port}"
        self.access_key = self.secret_key = ""
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.config = self.folder / "ceph.conf"
        self.fsid = str(uuid.uuid4())
        self.config.write_text(CONFIG.format(fsid=self.fsid, folder=self.folder, mon_port=mon_port, port=port))
        try:
            self._start(mon_port)
        except BaseException:
            self.stop()
            raise

    def environment(self, endpoint: str = "") -> dict[str, str]:
        """What boto3, s3fs and pyarrow need to find this server, or the proxy at `endpoint` before it."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # This server answers 411 to the uploads without a length that newer checksums bring along. For tests only.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def new_user(self, name: str) -> tuple[str, str]:
        """Make a user; its keys, which the tool draws itself, so that they are in nobody's list of processes."""
        said = self._run("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", name, "--display-name", name)
        keys = json.loads(said)["keys"][0]
        return keys["access_key"], keys["secret_key"]

    def stop(self) -> None:
        """End the daemons, those that were started last first, and remove what they kept."""
        for daemon in reversed(self.daemons):
            daemon.kill()
            daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, mon_port: int) -> None:
        for name in ("mon", "osd"):
            (self.folder / name).mkdir()
        keyring, monmap = self.folder / "keyring", self.folder / "monmap"
        for number, (name, capabilities) in enumerate(KEYS.items()):
            caps = [word for who, what in zip(capabilities[::2], capabilities[1::2], strict=True) for word in ("--cap", who, what)]
            self._run("ceph-authtool", *(["--create-keyring"] if number == 0 else []), keyring, "--gen-key", "--name", name, *caps)
        self._run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._daemon("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "host=localhost", "root=default")
        self._daemon("ceph-osd", "-i", "0")
        self._daemon("radosgw", "-n", "client.rgw")
        self._until("the gateway answers", self._answers)
        self.access_key, self.secret_key = self.new_user("test")

    def _run(self, program: str, *words: str | Path) -> str:
        """The output of one of Ceph's tools. Raises RuntimeError with what it said."""
        line = [program, "-c", str(self.config), *map(str, words)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=START_S, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def _daemon(self, program: str, *words: str) -> None:
        # Killed with this process, even where that is killed itself.
        line = ["setpriv", "--pdeathsig", "KILL", program, "-c", str(self.config), "-f", *words]
        with (self.folder / f"{program}.out").open("wb") as out:
            self.daemons.append(subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=out))

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not holds():
            for daemon in self.daemons:
                if daemon.poll() is not None:
                    logs = {path.name: path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.[lo][ou][gt]")}
                    raise RuntimeError(f"{daemon.args} ended with {daemon.returncode} before {what}: {logs}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {START_S:g} s: {what}")
            time.sleep(0.1)


def bucket_name() -> str:
    """A name that no test has used."""
    return f"test-{secrets.token_hex(6)}"
