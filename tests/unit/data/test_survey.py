"""What inspect counts and draws, against brute force over the frames and against what windows draw."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mvgan.config import Ingest, InputError, Run
from mvgan.data.ingest import begin, finish, ingest_group, plan_ingest
from mvgan.data.shards import ShardSet
from mvgan.data.survey import histogram, lines, sample_frames, sample_pairs, survey
from mvgan.data.windows import pair_windows
from mvgan.media import decode_png, encode_video


ROOT = Path(__file__).parents[3]
LENGTHS = (3, 5, 9, 9, 30)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Videos of known lengths and rates, each of one brightness; a broken, a short and a cut one among them."""
    root = tmp_path_factory.mktemp("survey")
    (root / "in").mkdir()
    for number, length in enumerate(LENGTHS):
        frames = np.full((length, 3, 32, 48 if number else 32), 40 * number + 20, np.uint8)
        (root / "in" / f"{number}.mp4").write_bytes(encode_video(frames, 25 if number < 4 else 50, ".mp4"))
    (root / "in" / "broken.mp4").write_bytes(b"no video")
    (root / "in" / "short.mp4").write_bytes(encode_video(np.zeros((1, 3, 32, 32), np.uint8), 25, ".mp4"))
    plan = plan_ingest(str(root / "in"), str(root / "out"), Run(resolution=16, ingest=Ingest(frames_per_piece=4)))
    begin(plan)
    finish(plan, map(ingest_group, plan.groups))
    return ShardSet.open(str(root / "out"))


def test_counts_are_those_of_brute_force(shards: ShardSet) -> None:
    found = survey(shards, (1, 4, 8, 29, 30))
    assert (found.num_videos, found.num_frames) == (5, sum(LENGTHS))
    assert found.num_pieces == sum(len(range(0, length, 4)) for length in LENGTHS)
    for pair in found.pairs:
        both = [(v, a, b) for v, n in enumerate(LENGTHS) for a, b in itertools.product(range(n), repeat=2) if abs(a - b) == pair.interval]
        assert pair.num_ordered == len(both) == 2 * pair.num_pairs
        assert pair.num_videos == len({v for v, _, _ in both})
    assert found.pairs[1].span_ms == (80.0, 160.0) and found.pairs[4].span_ms == (0.0, 0.0)
    assert found.lengths == {"max": 30, "min": 3, "mean": np.mean(LENGTHS), "variance": np.var(LENGTHS)}
    assert found.rates == [(25.0, 4), (50.0, 1)] and found.sizes == [("48x32", 4), ("32x32", 1)]
    assert sorted(kind for _, kind, _ in found.rejected) == ["minimum", "undecodable"]


def test_the_counted_pairs_are_the_ones_that_windows_draw(shards: ShardSet) -> None:
    windows = pair_windows(shards, Run(interval=(4,)))
    drawn = {(item.video, item.frames) for index in range(60) for item in windows[index]}
    assert len(drawn) == survey(shards, (4,)).pairs[0].num_ordered


def test_the_histogram_covers_all_lengths() -> None:
    rng = np.random.default_rng(0)
    for most in (1, 2, 13, 500):
        lengths = rng.integers(1, most + 1, 40).tolist()
        bars = histogram(lengths)
        assert len(bars) <= 12 and bars[0][0] == min(lengths) and bars[-1][1] >= max(lengths)
        assert all(b[0] == a[1] + 1 for a, b in itertools.pairwise(bars))
        assert [count for _, _, count in bars] == [sum(a <= n <= b for n in lengths) for a, b, _ in bars]
    assert histogram([]) == []


def test_samples_are_of_as_many_videos_as_there_are(shards: ShardSet) -> None:
    """Reference: the brightness of each video."""
    assert np.abs(sample_frames(shards, 9).mean((1, 2, 3)) - [20, 60, 100, 140, 180]).max() < 3
    pairs = sample_pairs(shards, 4, 8)
    assert pairs.shape == (8, 2, 3, 16, 16)
    assert {round((value - 20) / 40) for value in pairs.mean((1, 2, 3, 4))} == {1, 2, 3, 4}
    with pytest.raises(InputError, match="31 frames are needed"):
        sample_pairs(shards, 30, 8)


def test_text_says_what_is_odd(shards: ShardSet) -> None:
    text = lines(survey(shards, (4, 30)))
    assert "length in frames: max 30, min 3, mean 11.20, variance 93.76" in text
    assert "pairs at interval 4: 37, in both orders 74, from 4 videos, 80 to 160 ms" in text
    assert "pairs at interval 30: none, no video is long enough" in text
    assert "rejected: 2, 1 minimum, 1 undecodable" in text and "rejected: short.mp4 has 1 frame; ingest.min_frames is 2" in text


def inspect(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)


def test_the_verb_prints_and_draws(shards: ShardSet, tmp_path: Path) -> None:
    done = inspect("--data", shards.uri, "--interval", "1,4", "--out", str(tmp_path / "set.png"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:-1] == lines(survey(shards, (1, 4)))
    picture = decode_png((tmp_path / "set.png").read_bytes())
    assert picture.shape[0] == 3 and picture.shape[1] > 400 and picture.std() > 20
    done = inspect("--data", shards.uri, "--out", str(tmp_path / "set.html"))
    page = (tmp_path / "set.html").read_text()
    assert done.returncode == 0 and page.count("<svg") == 3 and page.count("data:image/png") == 6, done.stderr
    assert "broken.mp4" in page and "http:" not in page.replace("http://www.w3.org", "") and "https:" not in page


def test_mistakes_are_one_line(shards: ShardSet, tmp_path: Path) -> None:
    for arguments, message in (
        (["--data", str(tmp_path)], "no finished shard set"),
        (["--data", shards.uri, "--interval", "0"], "interval 0 is below 1"),
        (["--data", shards.uri, "--out", "a.gif"], "ends in .html or .png"),
    ):
        done = inspect(*arguments)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_manifest_of_before_kinds_and_marks_is_read(shards: ShardSet) -> None:
    manifest = json.loads(json.dumps(shards.manifest))
    for item in manifest["rejected"]:
        del item["kind"]
    assert {kind for _, kind, _ in survey(ShardSet(shards.uri, manifest), (1,)).rejected} == {"undecodable"}
