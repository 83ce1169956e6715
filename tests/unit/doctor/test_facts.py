"""What a machine measures of itself, and of a local folder; on S3 it is `tests/s3/test_doctor.py`.

Reference: `os.statvfs`, the metadata of the installed packages, and stores with one fault planted.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mvgan
from mvgan.doctor import facts
from mvgan.doctor.facts import Access, begin, disk, new_folder, remove, try_runs, try_videos, versions
from mvgan.storage.uri import LocalStore, Store


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    for name in ("ray", "numpy", "av"):
        assert found[name] == importlib.metadata.version(name)


def test_a_package_that_does_not_load_is_a_version_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text("raise ImportError('libodd.so: cannot open\\n shared object')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(facts, "PACKAGES", ("odd", "nowhere"))
    found = versions()
    assert found["odd"] == "none: libodd.so: cannot open shared object" and found["nowhere"].startswith("none: No module")


def test_the_hash_of_our_code_tells_every_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "mvgan"
    shutil.copytree(Path(str(mvgan.__file__)).parent, root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(facts, "PACKAGES", ())
    before = versions()[facts.OWN_CODE]
    monkeypatch.setattr(mvgan, "__file__", str(root / "__init__.py"))
    assert versions()[facts.OWN_CODE] == before, "a copy elsewhere is the same code"
    (root / "losses.py").write_text((root / "losses.py").read_text() + "\n")
    changed = versions()[facts.OWN_CODE]
    (root / "losses.py").rename(root / "loss.py")
    assert len({before, changed, versions()[facts.OWN_CODE]}) == 3


def test_disk(tmp_path: Path) -> None:
    found, stat = disk(str(tmp_path), write=True), os.statvfs(tmp_path)
    assert found.refused == "" and found.total == stat.f_blocks * stat.f_frsize
    assert found.free == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.05)
    assert list(tmp_path.iterdir()) == [], "the file that was tried is removed"
    assert disk(str(tmp_path / "none"), write=True).refused == "No such file or directory"


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """Reference: the kernel, by a bound on the size of files in a process of its own."""
    code = (
        "import resource, signal, sys; from mvgan.doctor.facts import disk; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.exit(disk(sys.argv[1], write=True).refused != 'File too large')"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code, str(tmp_path)]) == 0


def tried(root: Path, seen: bool = True) -> Access:
    folder = new_folder()
    if seen:
        assert not begin(str(root), folder, 1).refusals
    found = try_runs(str(root), folder, "node", seen, 1)
    assert remove(str(root), folder, ["node"], 1) == ()
    return found


def test_a_shared_folder_gives_all(tmp_path: Path) -> None:
    found = tried(tmp_path)
    assert (found.refusals, found.left, found.skipped, found.ahead_s) == ((), (), "", None) and found.round_trip_s
    assert list(tmp_path.iterdir()) == [], "nothing stays"


def test_a_folder_of_the_nodes_own_is_told_and_not_made(tmp_path: Path) -> None:
    (refusal,) = try_runs(str(tmp_path / "runs"), new_folder(), "node", True, 1).refusals
    assert refusal.what == ("read what the driver wrote",) and refusal.reason == "there is no such object"
    assert refusal.advice == facts.SHARED and not (tmp_path / "runs").exists()
    assert "the driver could write nothing" in try_runs(str(tmp_path / "runs"), new_folder(), "node", False, 1).skipped
    assert not (tmp_path / "runs").exists()


def test_another_folder_is_told_from_the_drivers(tmp_path: Path) -> None:
    LocalStore(tmp_path).write("mine/seen", b"another folder")
    (refusal,) = try_runs(str(tmp_path), "mine", "node", True, 1).refusals
    assert refusal.reason == "it is another's" and refusal.advice == facts.SHARED


def overwrite(store: Store, path: str, data: bytes) -> bool:
    store.write(path, data)
    return True


def cut_short(store: Store, path: str) -> bytes:
    data = Path(store.uri, path).read_bytes()
    return data if path.endswith("seen") else data[:-1]


@pytest.mark.parametrize(
    ("method", "fault", "what", "reason"),
    [
        ("create", overwrite, "conditional put", "it puts over what is there"),
        ("list", lambda store, prefix="": {}, "list", "the list is not what was written"),
        ("read", cut_short, "read", "what is read is not what was written"),
    ],
)
def test_a_store_that_does_not_what_it_says(
    method: str, fault: Callable[..., object], what: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No right is missing: it forgets the condition, lists late, or gives back other bytes."""
    monkeypatch.setattr(LocalStore, method, fault)
    (refusal,) = tried(tmp_path).refusals
    assert refusal.what == (what,) and refusal.reason == reason and refusal.advice


def test_videos(tmp_path: Path) -> None:
    (empty,) = try_videos(str(tmp_path / "none"), 1).refusals
    assert empty.reason == "it holds no object" and empty.advice == facts.SHARED
    (tmp_path / "a.mp4").write_bytes(b"video")
    found = try_videos(str(tmp_path), 1)
    assert not found.refusals and found.round_trip_s
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
