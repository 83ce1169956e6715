"""What the soak has found, kept between calls of `make soak`, and the page in docs/ that is made from it."""

import hashlib
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest


ROOT = Path(__file__).parents[2]
RESULTS = ROOT / ".soak" / "results.json"
PAGE = ROOT / "docs" / "soak.md"

HEAD = """# Soak: runs that something kills

Made by `make soak`, which goes on where it was ended. Each cell is a short run on synthetic clips (`tests/kill_matrix.py`,
`tests/soak/`) that is killed by SIGKILL at a moment and goes on by itself, or by the same command where the driver was killed.
"identical" means that the final weights have the sha256 of a run that nobody disturbed.
"""


def source_hash() -> str:
    """Hash of the code that is soaked: what was found with other code does not count."""
    digest = hashlib.sha256()
    for folder in ("mvgan", "jobs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


class Record:
    """Results by table and cell, written after each one."""

    def __init__(self) -> None:
        about = {"source": source_hash(), "cores": os.cpu_count(), "ray": version("ray"), "torch": version("torch")}
        self.content: dict[str, Any] = {**about, "results": {}}
        if RESULTS.exists():
            kept = json.loads(RESULTS.read_text())
            if kept["source"] == about["source"]:
                self.content = kept

    def skip_known(self, table: str, cell: str) -> None:
        """Skip a cell that was found identical; one that differed fails again until the code changes."""
        known = self.content["results"].get(table, {}).get(cell)
        if known is not None:
            assert known["identical"], f"{cell}: the weights differed on {known['date']}"
            pytest.skip(f"found identical on {known['date']}")

    def add(self, table: str, cell: str, identical: bool, started: float) -> None:
        """Keep a result."""
        row = {"identical": identical, "seconds": round(time.monotonic() - started), "date": time.strftime("%Y-%m-%d")}
        self.content["results"].setdefault(table, {})[cell] = row
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(self.content, indent=1))
        write_page(PAGE, self.content)


def write_page(path: Path, content: dict[str, Any]) -> None:
    """Write the page; `content` is that of `.soak/results.json`."""
    lines = [HEAD]
    total = [row for cells in content["results"].values() for row in cells.values()]
    lines.append(
        f"{sum(row['identical'] for row in total)} of {len(total)} identical; {content['cores']} cores, Ray {content['ray']}, "
        f"torch {content['torch']}, code {content['source'][:12]}.\n"
    )
    for table, cells in content["results"].items():
        lines += [f"## {table}\n", "| killed | weights | run, s | date |", "|---|---|---|---|"]
        for cell, row in cells.items():
            verdict = "identical" if row["identical"] else "DIFFER"
            lines.append(f"| {cell} | {verdict} | {row['seconds']} | {row['date']} |")
        lines.append("")
    path.write_text("\n".join(lines))
