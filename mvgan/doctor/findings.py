"""What is wrong by what the machines have measured, and what to do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mvgan.doctor.facts import MEMORY_FOLDER, OWN_CODE, Access, Disk


State = Literal["ok", "told", "not checked", "WRONG"]
"""`told`: measured, and nothing to be right or wrong about. Only `ok` and `told` are a pass."""

CLOCK_S = 60.0
"""A clock that is so far off is set by nothing, and goes on drifting to the 900 s at which S3 refuses all requests."""
SPILL_SHARE = 0.95
"""Ray spills nothing to a disk that is fuller (local_fs_capacity_threshold)."""
SLOWEST_BYTES_S = 10e6
"""A megabyte of gradients takes a tenth of a second: those of a network of 30 million parameters 12 s, many times in a step."""
SHOWN_NODES = 3
"""Nodes named in a line about several."""


@dataclass(frozen=True)
class Finding:
    """A line of the table: one check at one place."""

    check: str
    where: str
    state: State
    found: str
    """What was measured, or why it was not."""
    advice: str = ""
    """What to do, where something is wrong."""
    weight: float = 0.0
    """Of several that are well the one of most weight is shown."""


def same_versions(node: str, here: Mapping[str, str], driver: Mapping[str, str]) -> list[Finding]:
    """One finding for each version that is another than the driver's, or one that none is."""
    found = [
        Finding("versions", node, "WRONG", f"{name} {here.get(name, 'none')}, the driver has {version}", _mend(name))
        for name, version in driver.items()
        if here.get(name) != version
    ]
    return found or [Finding("versions", node, "ok", ", ".join(f"{name} {version}" for name, version in driver.items()))]


def _mend(name: str) -> str:
    if name == OWN_CODE:
        return "start all nodes from one image, or submit by `ray job submit --working-dir .`, and take no mvgan from PYTHONPATH"
    return f"start all nodes from one image; look for another {name} in PYTHONPATH on this node"


def shared_memory(node: str, memory: Disk, folder: str, store_bytes: int) -> Finding:
    """memory: /dev/shm. folder: where Ray's object store is, of `store_bytes`."""
    said = f"{MEMORY_FOLDER} of {_size(memory.total)}, Ray's object store of {_size(store_bytes)} in {folder}"
    larger = f"make {MEMORY_FOLDER} larger (docker run --shm-size, or an emptyDir of medium Memory) or give `ray start` a smaller"
    advice = f"{larger} --object-store-memory"
    if folder != MEMORY_FOLDER:
        return Finding("/dev/shm", node, "WRONG", f"{said}, which is a disk", advice)
    if memory.total < store_bytes:
        return Finding("/dev/shm", node, "WRONG", said, advice)
    return Finding("/dev/shm", node, "ok", said, weight=store_bytes / memory.total)


def spill_disk(node: str, spill: Disk) -> Finding:
    """spill: where Ray puts what its object store does not hold."""
    said = f"{spill.path}: {_size(spill.free)} free of {_size(spill.total)}"
    if spill.refused:
        advice = "make room there, or give `ray start` another --object-spilling-directory"
        return Finding("spill disk", node, "WRONG", f"{said}; a file of 1 MB could not be written: {spill.refused}", advice)
    used = 1 - spill.free / spill.total
    if used >= SPILL_SHARE:
        advice = f"make room, as Ray spills nothing to a disk of which {SPILL_SHARE:.0%} are in use; or another --object-spilling-directory"
        return Finding("spill disk", node, "WRONG", said, advice)
    return Finding("spill disk", node, "ok", said, weight=used)


def clock(node: str, is_head: bool, ahead_of_head_s: float | None, ahead_of_storage_s: float | None) -> Finding:
    """Seconds by which a node's clock is ahead; None where it was not measured. The storage's clock counts where it is known."""
    measured = {"the storage's": ahead_of_storage_s, "the head's": None if is_head else ahead_of_head_s}
    known = {whose: ahead for whose, ahead in measured.items() if ahead is not None}
    if not known and is_head:
        return Finding("clock", node, "told", "the others are compared with it, and it with none, as no storage told its time")
    if not known:
        return Finding("clock", node, "not checked", "it could not be compared with any other")
    said = ", ".join(f"{_ahead(ahead)} {whose}" for whose, ahead in known.items())
    counts = next(iter(known.values()))
    if abs(counts) > CLOCK_S:
        return Finding("clock", node, "WRONG", said, "set it and start NTP there (chrony): S3 refuses requests that are 15 minutes off")
    return Finding("clock", node, "ok", said, weight=abs(counts))


def _ahead(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}" if abs(seconds) >= 1 else "within 1 s of"


def access(check: str, node: str, tried: Access) -> list[Finding]:
    """What a node may not do on a storage, or that it may do all."""
    found = [
        Finding(check, node, "WRONG", f"{tried.uri}: {_words(list(dict.fromkeys(refusal.what)))}: {refusal.reason}", refusal.advice)
        for refusal in tried.refusals
    ]
    found += [Finding(check, node, "WRONG", f"{path} could not be removed", "remove it by hand") for path in tried.left]
    if not found and tried.skipped:
        return [Finding(check, node, "not checked", f"{tried.uri}: {tried.skipped}")]
    if not found:
        took = "" if tried.round_trip_s is None else f", {tried.round_trip_s * 1e3:.1f} ms for a request"
        found.append(Finding(check, node, "ok", f"{tried.uri}{took}", weight=tried.round_trip_s or 0.0))
    return found


def gpus(node: str, seen: int, told: int) -> Finding:
    """seen: GPUs that torch sees on a node. told: what Ray gives out there."""
    if seen < told:
        advice = "install NVIDIA's driver and torch's CUDA build there, or tell `ray start` the right --num-gpus"
        return Finding("GPUs", node, "WRONG", f"torch sees {seen} of the {told} that Ray gives out", advice)
    return Finding("GPUs", node, "ok", f"{told}, and torch sees them")


def exchange(workers: int, seconds: Mapping[int, float]) -> Finding:
    """What all-reduces between workers took, by their bytes. A rate is that of each worker's link, as nccl-tests count it."""
    small, large = min(seconds), max(seconds)
    rate = large / seconds[large] * 2 * (workers - 1) / workers
    said = (
        f"between {workers} workers: {_size(small)} in {seconds[small] * 1e3:.2f} ms, {_size(large)} in {seconds[large] * 1e3:.0f} ms, "
        f"{rate / 1e9:.2f} GB/s"
    )
    if rate < SLOWEST_BYTES_S:
        advice = "put the nodes in one zone, and name the fast network to gloo or nccl by GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME"
        return Finding("all-reduce", f"{workers} workers", "WRONG", said, advice)
    return Finding("all-reduce", f"{workers} workers", "told", said)


def fits(found: Iterable[Finding]) -> bool:
    """Whether nothing is wrong, and nothing was left unchecked."""
    return all(finding.state in ("ok", "told") for finding in found)


def merged(found: Iterable[Finding], nodes: int) -> list[Finding]:
    """One line for what was found alike at several nodes; of those that are well the worst stands for all."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in found:
        alike = (finding.check, finding.state) if finding.state == "ok" else (finding.check, finding.state, finding.found, finding.advice)
        groups.setdefault(alike, []).append(finding)
    return [_one(group, nodes) for group in groups.values()]


def _one(group: Sequence[Finding], nodes: int) -> Finding:
    worst = max(group, key=lambda finding: finding.weight)
    if len(group) == 1:
        return worst
    if len(group) == nodes:
        where = f"all {nodes} nodes"
    elif len(group) <= SHOWN_NODES:
        where = _words([finding.where for finding in group])
    else:
        where = f"{len(group)} nodes" + ("" if worst.state == "ok" else f", as {worst.where}")
    return replace(worst, where=where, found=f"{worst.found} ({worst.where})" if worst.state == "ok" and worst.weight else worst.found)


def table(found: Sequence[Finding]) -> list[str]:
    """The lines of a table of findings, what to do below what is wrong."""
    rows = [(finding.state, finding.check, finding.where, finding.found) for finding in found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row, finding in zip(rows, found, strict=True):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
        if finding.advice:
            lines.append(f"{'':{widths[0]}}  -> {finding.advice}")
    return lines


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.3g} {unit}" if num_bytes < 1000 else f"{num_bytes:.0f} {unit}"
