"""The simulator against what docs/benchmarks.md has measured. Its inputs are looked for there, and all figures here are read from there.

What is predicted is no input: of training on a GPU another width, another batch at a small size, another precision; of decoding another
size and other numbers of pairs.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mvgan.config import Network, Pairs, Run
from mvgan.scaling import rates
from mvgan.scaling.rates import decode_seconds, frame_bytes, ingest_seconds, phase_gigabytes, step_seconds
from mvgan.scaling.work import num_blocks


PAGE = (Path(__file__).parents[3] / "docs/benchmarks.md").read_text()
WITHIN = 0.2


def rows(cells: int) -> list[list[str]]:
    """The rows of all tables of the page that have so many cells."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    return [row for row in found if len(row) == cells]


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\.?\d*", text)]


STEPS = [[*numbers(" ".join(row[:5])), *numbers(row[5])] for row in rows(6) if row[0] in ("64", "256") and row[1] in ("16384", "32768")]
"""px, channel_base, batch, seconds a thousand pairs, GiB, milliseconds of the four phases."""
FITTED = {(256, 32768, 32), (256, 32768, 64), (64, 16384, 32)}


def of_gpu(px: float, base: float, precision: str = "bf16") -> Run:
    return Run(resolution=int(px), network=Network(channel_base=int(base), precision=precision))  # type: ignore[arg-type]


def test_inputs_of_a_step_are_measured() -> None:
    measured = {tuple(map(int, row[:3])): row[5:] for row in STEPS}
    assert set(measured) > FITTED
    at = [measured[256, 32768, 32], measured[256, 32768, 64], measured[64, 16384, 32]]
    assert dict(zip(rates.STEP_MS, zip(*at, strict=True), strict=True)) == rates.STEP_MS


@pytest.mark.parametrize("row", [row for row in STEPS if tuple(map(int, row[:3])) not in FITTED], ids=str)
def test_a_step_of_another_network_size_and_batch(row: list[float]) -> None:
    px, base, batch, s_per_kimg = row[:4]
    predicted = batch / step_seconds(of_gpu(px, base), int(batch))
    print(f"\n{px:g} px, {base:g}, {batch:g}: predicted {predicted:.1f} pairs/s, measured {1000 / s_per_kimg:.1f}")
    assert predicted == pytest.approx(1000 / s_per_kimg, rel=WITHIN)


def test_there_are_two_such_steps() -> None:
    assert len(STEPS) == 5


def test_a_step_in_another_precision() -> None:
    """By `jobs.bench`, which is another program than the one that gave the inputs."""
    measured = {name: float(re.search(rf"{name}\D*? ([\d.]+) pairs/s", PAGE)[1]) for name in ("bf16", r"fp32 \(TF32")}  # type: ignore[index]
    for (name, figure), precision in zip(measured.items(), ("bf16", "fp32"), strict=True):
        predicted = 32 / step_seconds(of_gpu(256, 32768, precision), 32)
        print(f"\n{name}: predicted {predicted:.1f} pairs/s, measured {figure}")
        assert predicted == pytest.approx(figure, rel=WITHIN)


@pytest.mark.parametrize("row", STEPS, ids=str)
def test_what_is_fitted_fits(row: list[float]) -> None:
    """The sum of the phases at their shares is the cycle, which was measured apart, and is not fitted."""
    px, base, batch, s_per_kimg = row[:4]
    if (px, base, batch) in FITTED:
        assert batch / step_seconds(of_gpu(px, base), int(batch)) == pytest.approx(1000 / s_per_kimg, rel=WITHIN)
        blocks = num_blocks(int(px))
        for (name, phase), ms in zip(rates.phases().items(), row[5:], strict=True):
            gigabytes = batch * phase_gigabytes(name, of_gpu(px, base).network, int(px))
            assert 1000 * phase.seconds(blocks, gigabytes, 1.0, 1.0) == pytest.approx(ms, rel=WITHIN)


def reading(px: int) -> dict[str, float]:
    """Pairs/s of one core of each side, from the table of so many pixels."""
    table = re.search(rf"^{px} px:\n\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table is not None
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]
    return {row[0].removesuffix(" (an earlier run)"): float(row[2]) for row in cells}


def test_inputs_of_reading_are_measured() -> None:
    assert {reader: tuple(reading(px)[reader] for px in rates.READ_SIZES) for reader in rates.READERS} == rates.READERS


@pytest.mark.parametrize("reader", rates.READERS)
def test_reading_at_another_size(reader: str) -> None:
    predicted, measured = 1 / decode_seconds(Run(resolution=128), reader), reading(128)[reader]
    print(f"\n{reader}: predicted {predicted:.0f} pairs/s of a core, measured {measured}")
    assert predicted == pytest.approx(measured, rel=WITHIN)


WINDOWS = {int(row[0].split(" x ")[0]): (float(row[1]), float(row[2])) for row in rows(3) if re.match(r"\d+ x 16\b", row[0])}


def test_inputs_of_windows_are_measured() -> None:
    assert tuple(WINDOWS[pairs][0] for pairs in rates.WINDOW_PAIRS) == rates.WINDOWS


@pytest.mark.parametrize("pairs", [2, 8])
def test_other_numbers_of_pairs_of_a_piece(pairs: int) -> None:
    """Against the default of 4, as the page has it."""
    run = Run(resolution=64)
    other = replace(run, pairs=Pairs(pairs_per_piece=pairs))
    predicted = decode_seconds(run, "shards") / decode_seconds(other, "shards")
    print(f"\n{pairs} pairs: predicted {predicted:.2f} times the default, measured {WINDOWS[pairs][1]}")
    assert predicted == pytest.approx(WINDOWS[pairs][1], rel=WITHIN)


def test_sets() -> None:
    """Of what `tests/soak/test_scale_rates.py` has measured at three sizes, the middle one is predicted."""
    figures = {row[0]: numbers(row[1]) for row in rows(2)}
    (ms,) = [values for name, values in figures.items() if name.startswith("ingest of a frame")]
    (size,) = [values for name, values in figures.items() if name.startswith("a frame of those")]
    (drawn,) = [values for name, values in figures.items() if name.startswith("drawing a window")]
    assert (ms[0], ms[2]) == rates.INGEST_MS and (size[0], size[2]) == rates.FRAME_BYTES
    assert ingest_seconds(128) * 1000 == pytest.approx(ms[1], rel=WITHIN) and frame_bytes(128) == pytest.approx(size[1], rel=WITHIN)
    assert min(drawn) < rates.DRAW_NS < max(drawn)
    assert tuple(figures["a video and a shard in the manifest"]) == rates.MANIFEST_BYTES
    assert tuple(figures["a video in each process that holds the manifest"]) == (rates.VIDEO_MEMORY, rates.VIDEO_US)
    assert figures["a commit, serialised and hashed"] == [rates.COMMIT_GB_PER_S]
