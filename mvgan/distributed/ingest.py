"""Ingest as a Ray Data job: groups of sources in, shards on storage, small records back to the driver."""

import json
import time
from collections.abc import Iterator
from typing import Any

import ray.data

from mvgan.config import Run
from mvgan.data.ingest import Group, Plan, begin, describe, finish, ingest_group, plan_ingest
from mvgan.distributed.errors import end_with


def ingest(videos: str, out: str, run: Run, list_file: str | None = None) -> dict[str, Any]:
    """Make the shard set `out` from the sources below `videos`; returns its manifest. Ray has been initialised.

    The same call again goes on from the groups that are done, and does nothing once all are. Prints its progress.
    Raises InputError as `mvgan.data.ingest` says.
    """
    plan = plan_ingest(videos, out, run, list_file)
    for line in plan.notes:
        print(f"ingest: {line}", flush=True)
    manifest = begin(plan)
    if manifest is None:
        manifest = finish(plan, _run_groups(plan))
        print(f"ingest: done, {plan.out}", flush=True)
    else:
        print(f"ingest: {plan.out} is complete", flush=True)
    for line in describe(manifest, run.interval):
        print(f"ingest: {line}", flush=True)
    return manifest


def _run_groups(plan: Plan) -> Iterator[dict[str, Any]]:
    """The records of the groups as they are done: whoever reads them may stop in the middle, which ends the job."""
    print(f"ingest: {plan.num_sources} files, {plan.num_bytes / 1e6:.1f} MB, in {len(plan.groups)} groups", flush=True)
    rows = [{"group": group.to_json()} for group in plan.groups]
    stream = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_ingest_row, num_cpus=1)
    stream.context.raise_original_map_exception = True
    start = time.monotonic()
    frames = done_bytes = files = 0
    for row in _rows(stream):
        record = json.loads(row["record"])
        group = plan.groups[record["group"]]
        files += len(group.sources)
        done_bytes += group.num_bytes
        frames += sum(video["num_frames"] for video in record["videos"])
        elapsed_s = time.monotonic() - start
        eta_s = elapsed_s * (plan.num_bytes - done_bytes) / max(done_bytes, 1)
        print(f"ingest: {files}/{plan.num_sources} files, {frames} frames, {elapsed_s:.0f} s, ETA {eta_s:.0f} s", flush=True)
        yield record


def _rows(stream: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    try:
        yield from stream.iter_rows()
    except ray.exceptions.RayError as error:
        end_with(error, "ingest", "take nodes with more memory for each CPU, or lower --ingest.memory-mb, with another --out")


def _ingest_row(row: dict[str, str]) -> dict[str, str]:
    return {"record": json.dumps(ingest_group(Group.from_json(row["group"])))}
