"""Config: what is accepted, what is refused and in which words, differences, and which stage a setting shapes."""

import ast
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvgan import config
from mvgan.config import STAGES, InputError, Resources, Run, stage_of
from mvgan.presets import PRESETS
from mvgan.settings import differences, from_dict, to_dict
from mvgan.validation import validate, validate_resources


def leaves(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Dotted paths of all settings."""
    found = {}
    for key, value in values.items():
        found |= leaves(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return found


def changed(**changes: Any) -> Run:
    """The default run with dotted settings (two underscores for the dot) replaced."""
    values: dict[str, Any] = {}
    for path, value in changes.items():
        group, _, name = path.rpartition("__")
        (values.setdefault(group, {}) if group else values)[name] = value
    return from_dict(Run(), values)


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip(name: str) -> None:
    """Through plain values and YAML nothing is lost, as --print-config and --config do it, and as run.json does."""
    run = PRESETS[name]()
    assert from_dict(Run(), yaml.safe_load(yaml.safe_dump(to_dict(run), sort_keys=False))) == run
    assert validate(run) is run


def test_to_dict_is_plain() -> None:
    values = to_dict(Run(interval=(2, 3)))
    assert values["interval"] == [2, 3] and values["network"]["z_dim"] == 512
    assert all(isinstance(value, int | float | str | bool | list | None) for value in leaves(values).values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolutoin": 64}, "unknown setting 'resolutoin'; known here: resolution, "),
        ({"pairs": {"gamma": 1}}, "unknown setting 'pairs.gamma'; known here: .*r1_gamma"),
        ({1: 2}, "unknown setting '1'"),
        ({"pairs": 3}, "'pairs' is a group of settings; got 3"),
        ({"pairs": None}, "'pairs' is a group of settings; got None"),
        ({"resolution": "64"}, "'resolution' is of kind int; got '64'"),
        ({"resolution": 64.0}, "'resolution' is of kind int; got 64.0"),
        ({"resolution": True}, "'resolution' is of kind int; got True"),
        ({"resolution": None}, "'resolution' is of kind int; got None"),
        ({"deterministic": 1}, "'deterministic' is of kind bool; got 1"),
        ({"pairs": {"lr": "1e-3"}}, "'pairs.lr' is of kind float; got '1e-3'"),
        ({"ingest": {"fps": "25"}}, "'ingest.fps' is of kind float or NoneType; got '25'"),
        ({"network": {"frames": 1.0}}, "'network.frames' is one of 2, 1; got 1.0"),
        ({"network": {"frames": True}}, "'network.frames' is one of 2, 1; got True"),
        ({"network": {"precision": "fp8"}}, "'network.precision' is one of fp32, bf16, fp16; got 'fp8'"),
        ({"codes": {"rank": "all"}}, "'codes.rank' is one of energy, full, or a whole number; got 'all'"),
        ({"codes": {"rank": 3.0}}, "'codes.rank' is one of energy, full, or a whole number; got 3.0"),
        ({"codes": {"rank": True}}, "'codes.rank' is one of energy, full, or a whole number; got True"),
        ({"codes": {"method": "pca"}}, "'codes.method' is one of generalized, nullspace, official, random; got 'pca'"),
        ({"codes": {"space": "z"}}, r"'codes.space' is one of w, w\+; got 'z'"),
        ({"interval": [2, "3"]}, r"'interval' is a list of whole numbers; got \[2, '3'\]"),
        ({"interval": 2.5}, "'interval' is a list of whole numbers; got 2.5"),
        ({"resolution": {"a": 1}}, "'resolution' is of kind int"),
        ({"network": {"precision": ["bf16"]}}, "'network.precision' is one of fp32, bf16"),
    ],
)
def test_from_dict_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        from_dict(Run(), values)
    assert "\n" not in str(error.value)


def test_from_dict_accepts() -> None:
    """Whole numbers where floats are due; one interval or several, in any order."""
    run = from_dict(Run(), {"pairs": {"total_kimg": 10}, "interval": [4, 2, 4], "ingest": {"fps": 25}})
    assert run.pairs.total_kimg == 10 and run.interval == (2, 4) and run.ingest.fps == 25
    assert from_dict(Run(), {"interval": 3, "ingest": {"fps": None}}).interval == (3,)
    assert from_dict(run, {}) == run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 100}, "resolution 100 is no power of two of at least 8; take 32"),
        ({"resolution": 4}, "resolution 4 is no power of two"),
        ({"resolution": 0}, "resolution 0 is no power of two"),
        ({"resolution": -64}, "resolution -64 is no power of two"),
        ({"interval": 0}, "interval 0 is below 1; give k >= 1"),
        ({"interval": [-1, 2]}, "interval -1,2 is below 1"),
        ({"interval": []}, "interval"),
        ({"stride": 0}, "stride is 0; it must be at least 1"),
        ({"max_skipped": -1}, "max_skipped is -1; it must be at least 0"),
        ({"num_codes": 0}, "num_codes is 0"),
        ({"latents": 0}, "latents is 0"),
        ({"num_codes": 257}, "num_codes 257 each way is more than the factorization can give with network.w_dim 512; .*at most 256"),
        ({"pairs__batch": 30}, "pairs.batch 30 does not divide into logical shards of pairs.group 4"),
        ({"video__batch": 18}, "video.batch 18 does not divide into logical shards of video.group 4"),
        ({"pairs__batch": 0}, "pairs.batch is 0; it must be at least 1"),
        ({"pairs__group": 0}, "pairs.group is 0"),
        ({"pairs__pairs_per_piece": 3, "pairs__pieces_per_window": 5}, "window of pairs holds 15 items, .*no multiple of pairs.group 4"),
        ({"video__pieces_per_window": 6}, "window of video holds 6 items"),
        ({"pairs__pieces_per_window": 0}, "pairs.pieces_per_window is 0"),
        ({"video__pieces_per_window": 0}, "video.pieces_per_window is 0"),
        ({"pairs__pairs_per_piece": -4}, "pairs.pairs_per_piece is -4"),
        ({"video__num_frames": 1}, "video.num_frames is 1; a clip has at least"),
        ({"video__num_frames": 2}, "video.num_frames is 2; a clip has at least 3 frames"),
        ({"ingest__qp": 52}, "ingest.qp 52 is not between 0 and 51"),
        ({"ingest__frames_per_piece": 0}, "ingest.frames_per_piece is 0"),
        ({"ingest__shard_mb": 0}, "ingest.shard_mb is 0"),
        ({"ingest__fps": 0.0}, "ingest.fps is 0"),
        ({"pairs__tick_kimg": 0.0}, "pairs.tick_kimg is 0"),
        ({"pairs__commit_kimg": 0.0001}, "pairs.commit_kimg is 0.0001"),
        ({"pairs__total_kimg": -1.0}, "pairs.total_kimg is -1"),
        ({"video__tick_clips": 0}, "video.tick_clips is 0"),
        ({"video__commit_clips": 0}, "video.commit_clips is 0"),
        ({"video__total_clips": 0}, "video.total_clips is 0"),
        ({"video__epochs": -1.0}, "video.epochs is -1"),
        ({"video__hidden": 0}, "video.hidden is 0"),
        ({"video__d_channels": 0}, "video.d_channels is 0"),
        ({"video__d_scales": 0}, "video.d_scales is 0"),
        ({"network__z_dim": 0}, "network.z_dim is 0"),
        ({"network__mapping_layers": 0}, "network.mapping_layers is 0"),
        ({"network__channel_max": 0}, "network.channel_max is 0"),
        ({"network__channel_base": 128}, "network.channel_base is 128; it must be at least the resolution 256"),
        ({"pairs__lr": 0.0}, "pairs.lr is 0"),
        ({"video__lr": float("nan")}, "video.lr is nan"),
        ({"pairs__evaluations": -1}, "pairs.evaluations is -1"),
        ({"pairs__style_mixing": 1.5}, "pairs.style_mixing is 1.5"),
        ({"codes__rank": 29}, "codes.rank 29 is not between num_codes 30, .* and 452, above which"),
        ({"codes__rank": 453}, "codes.rank 453 is not between num_codes 30, .* give a number between, or take codes.rank energy"),
        ({"codes__rank": 0}, "codes.rank is 0"),
        ({"codes__method": "official"}, "official is the released code, .* set codes.grey and codes.source sample"),
        (
            {"codes__method": "official", "codes__grey": True, "codes__source": "sample", "codes__space": "w+"},
            r"codes.space w\+ is not to be had with codes.method official, .*; take codes.space w, or codes.method generalized",
        ),
        ({"codes__method": "official", "codes__grey": True}, "set codes.grey and codes.source sample"),
        ({"codes__method": "official", "codes__source": "sample"}, "set codes.grey and codes.source sample"),
        ({"resolution": 4096}, "resolution is 4096; it must be at most 2048"),
        ({"resolution": 2**60, "network__channel_base": 2**60}, "resolution is 1152921504606846976; it must be at most 2048"),
        ({"network__z_dim": 10**9}, "network.z_dim is 1000000000; it must be at most 8192"),
        ({"network__w_dim": 8193}, "network.w_dim is 8193; it must be at most 8192"),
        ({"network__mapping_layers": 65}, "network.mapping_layers is 65; it must be at most 64"),
        ({"network__channel_base": 10**8}, "network.channel_base is 100000000; it must be at most 8388608"),
        ({"network__channel_max": 10**8}, "network.channel_max is 100000000; it must be at most 4096"),
        ({"pairs__r1_gamma": 1e300}, r"pairs.r1_gamma is 1e\+300; it must be at most 100000"),
        ({"pairs__pl_weight": 1e6}, "pairs.pl_weight is 1000000.0; it must be at most 100000"),
        ({"pairs__lr": 1e9}, "pairs.lr is 1000000000.0; it must be at most 1"),
        ({"pairs__batch": 2**40}, "pairs.batch is 1099511627776; it must be at most 1048576"),
        ({"video__lr": 2.0}, "video.lr is 2.0; it must be at most 1"),
        ({"video__hidden": 10**9}, "video.hidden is 1000000000; it must be at most 8192"),
        ({"video__d_channels": 10**9}, "video.d_channels is 1000000000; it must be at most 4096"),
        ({"video__d_scales": 10**9}, "video.d_scales is 1000000000; it must be at most 8"),
        ({"latents": 10**9}, "latents is 1000000000; it must be at most 1000000"),
        ({"pairs__ema_kimg": 1e30}, r"pairs.ema_kimg is 1e\+30; it must be at most 1000000000000000"),
        ({"codes__select": "best", "pairs__evaluations": 0}, "codes.select best needs measures of stage 1"),
    ],
)
def test_validate_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        validate(changed(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [{"resolution": 8}, {"resolution": 2048}, {"network__z_dim": 8192, "network__w_dim": 8192, "network__mapping_layers": 64},
     {"network__channel_base": 2**23, "network__channel_max": 4096}, {"pairs__r1_gamma": 1e5, "pairs__lr": 1.0},
     {"interval": [1]}, {"num_codes": 256}, {"ingest__qp": 0}, {"pairs__group": 32}, {"pairs__r1_gamma": 0.0},
     {"pairs__pl_weight": 0.0}, {"pairs__evaluations": 0}, {"video__num_frames": 3}, {"network__channel_base": 256},
     {"codes__rank": 30}, {"codes__rank": 452}, {"codes__rank": "full"}, {"codes__method": "random"},
     {"codes__method": "official", "codes__grey": True, "codes__source": "sample"}],
)  # fmt: skip
def test_validate_accepts_the_limits(changes: dict[str, Any]) -> None:
    run = changed(**changes)
    assert validate(run) is run


def test_differences() -> None:
    old, new = to_dict(Run()), to_dict(changed(interval=[2, 3], pairs__lr=0.1))
    assert differences(old, old) == {}
    assert differences(old, new) == {"interval": ([4], [2, 3]), "pairs.lr": (0.002, 0.1)}
    assert differences({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}) == {"a.c": (None, 2)}


def test_stage_of_covers_every_setting() -> None:
    """By hand: what each setting shapes first; a setting that is added must be placed."""
    first = {path: stage_of(path) for path in leaves(to_dict(Run()))}
    assert set(first.values()) == set(STAGES)
    by_root: dict[str, set[str]] = {}
    for path, stage in first.items():
        by_root.setdefault(path.split(".")[0], set()).add(stage)
    assert by_root == {
        "resolution": {"ingest"}, "ingest": {"ingest"},
        "interval": {"pairs"}, "seed": {"pairs"}, "deterministic": {"pairs"}, "max_skipped": {"pairs"}, "network": {"pairs"},
        "pairs": {"pairs"},
        "num_codes": {"codes"}, "latents": {"codes"}, "codes": {"codes"},
        "stride": {"video"}, "video": {"video"},
    }  # fmt: skip


def test_every_setting_is_explained() -> None:
    """Reference: the syntax tree: a line of text follows each field but the groups; --help shows it."""
    tree = ast.parse(Path(config.__file__).read_text(encoding="utf-8"))
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.decorator_list):
        for field, after in itertools.pairwise([*kind.body, None]):
            if isinstance(field, ast.AnnAssign) and not ast.unparse(field.value or field.annotation).startswith("field("):
                assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), ast.unparse(field)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(gpu_share=0), "gpu_share is 0; give the share of a GPU"),
        (Resources(gpu_share=1.5), "gpu_share is 1.5; give the share of a GPU that a task takes, from 0.0001 to 1"),
        (Resources(workers=0), "workers is 0; it must be at least 1"),
        (Resources(min_workers=-1), "min_workers is -1; it must be at least 0"),
        (Resources(workers=2, min_workers=3), "min_workers is 3, above workers 2; give fewer, or 0 to wait for all of them"),
        (Resources(threads=-1), "threads is -1"),
        (Resources(max_failures=-2), "max_failures is -2"),
        (Resources(max_missed_commits=0), "max_missed_commits is 0; it must be at least 1"),
        (Resources(hang_s=0), "hang_s is 0; it must be at least 1"),
        (Resources(start_s=float("nan")), "start_s is nan"),
        (Resources(max_hours=-0.5), "max_hours is -0.5; it must be at least 0"),
    ],
)
def test_validate_resources(resources: Resources, message: str) -> None:
    assert validate_resources(Resources()) == Resources()
    with pytest.raises(InputError, match=message):
        validate_resources(resources)
