"""Commits of a stage's state: whole or absent, verified when read, and safe from a driver that was thought dead.

Below the stage's folder:

- `epochs/00001.json`: a driver's claim of an epoch, made by `create`, so each number has one owner.
- `epochs/00001.inherits.json`: the records that were valid after the claim.
- `data/<images>-<epoch>-<nonce>/<file>`: data, always under fresh names.
- `commits/<images>-<epoch>.json`: a record with the size and sha256 of each file, made last, by `create`.

A record is valid when its epoch is the newest one that has its list of inherited records, or when it is in that list.
The list is made after the claim, and a writer looks for newer claims after its record is there. It reports a commit only
when there is none, so that every later driver lists the record: no reported commit gets lost, and none that comes after
a newer claim's list ever counts. Neither clocks nor a "latest" pointer are needed.
"""

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypedDict

from mvgan.config import Ended, InputError
from mvgan.storage.store import Store


FORMAT_VERSION = 1
RECORD = r"commits/((\d+)-(\d+))\.json"
"""Path of a record; its parts are its name, `images` and `epoch`."""

logger = logging.getLogger(__name__)


class Superseded(Ended):
    """A newer driver has claimed this run; this one must stop."""


class Conflict(Ended):
    """Somebody with the same epoch has committed at the same number of images: two writers of one driver."""


class Damaged(RuntimeError):
    """A record or one of its files is missing or altered."""


class FileRecord(TypedDict):
    """Where a committed file is, below the stage's folder, and what it must be."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Commit:
    """One committed state: `images` is the progress (pairs or clips), `epoch` that of the driver."""

    name: str
    images: int
    epoch: int
    files: dict[str, FileRecord]
    meta: dict[str, Any]


class Commits:
    """The commits of the stage whose folder in `store` is `stage`."""

    def __init__(self, store: Store, stage: str) -> None:
        self.store = store.at(stage)
        self._whole: dict[str, Commit] = {}
        """Commits that this object has verified, or written and verified."""

    def claim(self, owner: dict[str, Any], after: int | None = None) -> int:
        """Claim and return the next epoch; every older driver is superseded from here on. `owner` is for people to read.

        after: the caller's own epoch, which it gives up for the next one. Raises Superseded when another driver was first.
        """
        while True:
            if after is not None:
                self._refuse_superseded(after)
            epoch = max(self._claimed(), default=0) + 1 if after is None else after + 1
            # The nonce keeps rivals' claims apart, which `create` asks for.
            claim = {"format_version": FORMAT_VERSION, "epoch": epoch, "nonce": secrets.token_hex(8), "owner": owner}
            if self.store.create(f"epochs/{epoch:05d}.json", _to_json(claim)):
                break
        inherits = {"format_version": FORMAT_VERSION, "epoch": epoch, "inherits": self._valid_names()}
        if not self.store.create(f"epochs/{epoch:05d}.inherits.json", _to_json(inherits)):
            raise Conflict(f"{self.store.uri}: another process wrote the inherited records of epoch {epoch}")
        return epoch

    def write(self, images: int, epoch: int, files: dict[str, bytes], meta: dict[str, Any]) -> Commit:
        """Commit `files` and the JSON values `meta`. On return every later reader sees it.

        Raises Superseded when a newer epoch is claimed, Conflict when this epoch already holds a commit at `images`,
        Damaged when what the store gives back is not what was written.
        """
        self._refuse_superseded(epoch)
        name = f"{images:012d}-{epoch:05d}"
        folder = f"data/{name}-{secrets.token_hex(4)}"
        try:
            records = {file: self._write_file(f"{folder}/{file}", data) for file, data in files.items()}
        except (Damaged, FileNotFoundError):
            self._refuse_superseded(epoch)  # then it was the newer one that removed what is no commit
            raise
        self._refuse_superseded(epoch)
        commit = Commit(name, images, epoch, records, meta)
        if not self.store.create(f"commits/{name}.json", _record_bytes(commit)):
            for record in records.values():
                self.store.delete(record["path"])
            self._refuse_superseded(epoch)
            raise Conflict(f"{self.store.uri}: epoch {epoch} already holds a commit at {images} images, written by another process")
        # Also when a newer driver's list has it: one whose list is still to come may have looked before the record was there.
        self._refuse_superseded(epoch)
        self._whole[name] = commit
        return commit

    def newest(self) -> Commit | None:
        """The newest valid commit, after verifying all its files; None when there is none.

        Warns of each damaged one it passes over. Raises InputError when there are commits and all are damaged.
        """
        damaged: dict[str, str] = {}
        while True:
            # Listed anew after each failure: a driver at work may have made newer ones and pruned this one meanwhile.
            names = self._valid_names()
            name = next((name for name in names if name not in damaged), None)
            if name is None:
                break
            try:
                return self._verified(name)
            except Damaged as error:
                damaged[name] = str(error)
                logger.warning("commit %s is passed over for an older one: %s", name, error)
        if names:
            raise InputError(
                f"{self.store.uri}: all {len(names)} commits are damaged ({damaged[names[0]]}); "
                "restore the files, or delete this folder to start the stage anew"
            )
        return None

    def begun(self) -> bool:
        """Whether any driver has claimed an epoch of this stage."""
        return bool(self._claimed())

    def records(self) -> list[Commit]:
        """All valid commits, newest first, their files unverified. Warns of unreadable records and leaves them out."""
        found = []
        for name in self._valid_names():
            try:
                found.append(self._record(name))
            except Damaged as error:
                logger.warning("commit %s is left out: %s", name, error)
        return found

    def read(self, commit: Commit, file: str) -> bytes:
        """A committed file, verified. Raises Damaged."""
        record = commit.files[file]
        try:
            data = self.store.read(record["path"])
        except FileNotFoundError:
            raise Damaged(f"{self.store.uri}/{record['path']} is missing") from None
        _compare(f"{self.store.uri}/{record['path']}", record, data)
        return data

    def prune(self, keep: int = 2, keep_names: Collection[str] = ()) -> list[str]:
        """Remove the commits older than the newest `keep` that verify, but for `keep_names`; returns the removed names.

        What this object has once verified, or written and verified, is not read again: it counts while all its files
        are there in their sizes.
        """
        if keep < 1:
            raise ValueError(f"prune must keep at least one commit, not {keep}")
        removed = []
        verified = 0
        data = self.store.list("data/")
        for name in self._valid_names():
            if verified < keep:
                verified += self._verifies(name, data)
            elif name not in keep_names:
                # The record goes first: without its data it would be a damaged commit.
                self.store.delete(f"commits/{name}.json")
                self._whole.pop(name, None)
                for path in data:
                    if path.startswith(f"data/{name}-"):
                        self.store.delete(path)
                removed.append(name)
        return removed

    def uncommitted(self) -> dict[str, int]:
        """Sizes of the records that do not count and of the data that no valid one names, records first, as in `prune`.

        A driver at work may yet make a commit of such data. All data of a valid record that cannot be read are left out.
        """
        data = self.store.list("data/")
        records = {path: size for path, size in self.store.list("commits/").items() if re.fullmatch(RECORD, path)}
        valid = self._valid_names()
        kept = {f"commits/{name}.json" for name in valid}
        for name in valid:
            try:
                kept |= {record["path"] for record in self._record(name).files.values()}
            except Damaged as error:
                logger.warning("all data of commit %s are left: %s", name, error)
                kept |= {path for path in data if path.startswith(f"data/{name}-")}
        return {path: size for path, size in (records | data).items() if path not in kept}

    def remove_uncommitted(self, owner: dict[str, Any]) -> dict[str, int]:
        """Remove what is `uncommitted`, and return it. No other driver may be at work.

        Claims an epoch: a driver that was only thought dead can then make no commit of the data that are removed.
        """
        if not self.uncommitted():
            return {}
        epoch = self.claim(owner)
        found = self.uncommitted()
        self._refuse_superseded(epoch)
        for path in found:
            self.store.delete(path)
        return found

    def _claimed(self) -> list[int]:
        return [int(m[1]) for path in self.store.list("epochs/") if (m := re.fullmatch(r"epochs/(\d+)\.json", path))]

    def _refuse_superseded(self, epoch: int) -> None:
        newest = max(self._claimed(), default=0)
        if newest > epoch:
            raise Superseded(f"{self.store.uri}: epoch {epoch} is superseded by {newest}; another driver has taken over this run")
        if newest < epoch:
            raise ValueError(f"{self.store.uri}: epoch {epoch} was never claimed")

    def _valid_names(self) -> list[str]:
        """Names of all valid records, newest first: later epochs first, as they went on from the earlier ones."""
        paths = self.store.list("epochs/")
        newest = max((int(m[1]) for path in paths if (m := re.fullmatch(r"epochs/(\d+)\.inherits\.json", path))), default=None)
        if newest is None:
            return []
        inherits = self._inherits(newest)
        found = []
        for path in self.store.list("commits/"):
            if match := re.fullmatch(RECORD, path):
                name, images, epoch = match[1], int(match[2]), int(match[3])
                if epoch == newest or name in inherits:
                    found.append((epoch, images, name))
        return [name for _, _, name in sorted(found, reverse=True)]

    def _inherits(self, epoch: int) -> set[str]:
        path = f"epochs/{epoch:05d}.inherits.json"
        try:
            content = json.loads(self.store.read(path))
            _check_version(f"{self.store.uri}/{path}", content["format_version"])
            return set(content["inherits"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.store.uri}/{path} is damaged ({error}), so the valid commits cannot be told; "
                "restore it, or delete this folder to start the stage anew"
            ) from error

    def _record(self, name: str) -> Commit:
        """The record `name`, its files unverified. Raises Damaged, and InputError for a format of the future."""
        where = f"{self.store.uri}/commits/{name}.json"
        try:
            record = json.loads(self.store.read(f"commits/{name}.json"))
            seal, version, body = record.pop("sha256"), record["format_version"], record["commit"]
        except FileNotFoundError:
            raise Damaged(f"{where} is missing") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{where} is no readable record ({error})") from None
        if seal != _sha256(_to_json(record)):
            raise Damaged(f"{where} was altered: its seal differs from its content")
        _check_version(where, version)
        if body["name"] != name:
            raise Damaged(f"{where} is the record of {body['name']}")
        return Commit(name, body["images"], body["epoch"], body["files"], body["meta"])

    def _verified(self, name: str) -> Commit:
        commit = self._record(name)
        for file in commit.files:
            self.read(commit, file)
        self._whole[name] = commit
        return commit

    def _verifies(self, name: str, data: dict[str, int]) -> bool:
        known = self._whole.get(name)
        if known is not None and all(data.get(record["path"]) == record["size"] for record in known.files.values()):
            return True
        try:
            self._verified(name)
        except Damaged as error:
            logger.warning("commit %s does not count among those kept: %s", name, error)
            return False
        return True

    def _write_file(self, path: str, data: bytes) -> FileRecord:
        self.store.write(path, data)
        record = FileRecord(path=path, size=len(data), sha256=_sha256(data))
        size = self.store.size(path)
        if size != len(data):
            raise Damaged(f"{self.store.uri}/{path} has {size} bytes after writing {len(data)}")
        if not self.store.checks_uploads:
            _compare(f"{self.store.uri}/{path}", record, self.store.read(path))
        return record


def _compare(where: str, record: FileRecord, data: bytes) -> None:
    if len(data) != record["size"]:
        raise Damaged(f"{where} has {len(data)} bytes instead of {record['size']}")
    if _sha256(data) != record["sha256"]:
        raise Damaged(f"{where} was altered: its sha256 differs from the record's")


def _record_bytes(commit: Commit) -> bytes:
    """The record as JSON, sealed by the sha256 of all its other content."""
    body = {"name": commit.name, "images": commit.images, "epoch": commit.epoch, "files": commit.files, "meta": commit.meta}
    content = {"format_version": FORMAT_VERSION, "commit": body}
    return _to_json({**content, "sha256": _sha256(_to_json(content))})


def _check_version(where: str, version: Any) -> None:
    if version != FORMAT_VERSION:
        raise InputError(f"{where} has format_version {version!r}, this mvgan reads {FORMAT_VERSION}; use the version that wrote it")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
