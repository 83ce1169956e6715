"""What no single field of a config can tell: whether its values are possible, and fit together."""

import math
import os
from importlib.metadata import PackageNotFoundError, version
from socket import gethostname
from typing import Any

from mvgan.config import InputError, Resources, Run
from mvgan.settings import to_dict


def validate(run: Run) -> Run:
    """Check what no single field can tell. Raises InputError."""
    if run.resolution > MOST_PIXELS:
        raise InputError(f"resolution is {run.resolution}; it must be at most {MOST_PIXELS}")
    if run.resolution < 8 or run.resolution & (run.resolution - 1):
        raise InputError(f"resolution {run.resolution} is no power of two of at least 8; take 32, 64, 128 or 256")
    if not run.interval or min(run.interval) < 1:
        raise InputError(f"interval {','.join(map(str, run.interval))} is below 1; give k >= 1 frames between the frames of a pair")
    _check_numbers(to_dict(run))
    if run.video.num_frames < 3:
        raise InputError(f"video.num_frames is {run.video.num_frames}; a clip has at least 3 frames, as the video discriminators need")
    if run.network.channel_base < run.resolution:
        raise InputError(f"network.channel_base is {run.network.channel_base}; it must be at least the resolution {run.resolution}")
    for name, stage in (("pairs", run.pairs), ("video", run.video)):
        if stage.batch % stage.group:
            raise InputError(
                f"{name}.batch {stage.batch} does not divide into logical shards of {name}.group {stage.group}; "
                "make the batch a multiple of the group"
            )
    _windows_divide("pairs", run.pairs.pieces_per_window * run.pairs.pairs_per_piece, run.pairs.group)
    _windows_divide("video", run.video.pieces_per_window, run.video.group)
    if 2 * run.num_codes > run.network.w_dim:
        raise InputError(
            f"num_codes {run.num_codes} each way is more than the factorization can give with network.w_dim {run.network.w_dim}; "
            f"ask for at most {run.network.w_dim // 2}"
        )
    _check_codes(run)
    if run.codes.select == "best" and not run.pairs.evaluations:
        raise InputError("codes.select best needs measures of stage 1; set pairs.evaluations to at least 1, or take codes.select last")
    if run.video.select == "best" and not run.video.evaluations:
        raise InputError("video.select best needs measures of stage 3; set video.evaluations to at least 1, or take video.select last")
    if not (run.video.d_v or run.video.d_r or run.video.d_i):
        raise InputError("video.d_v, video.d_r and video.d_i are all off; stage 3 needs at least one discriminator")
    for name, count in (("pairs.eval_pairs", run.pairs.eval_pairs), ("video.eval_clips", run.video.eval_clips)):
        if count < 2:
            raise InputError(f"{name} is {count}; a distance needs at least 2 samples")
    if not 0 <= run.ingest.qp <= 51:
        raise InputError(f"ingest.qp {run.ingest.qp} is not between 0 and 51")
    if run.ingest.min_frames < 2:
        raise InputError(f"ingest.min_frames is {run.ingest.min_frames}; a pair needs 2")
    if run.ingest.memory_mb < 256:
        raise InputError(f"ingest.memory_mb is {run.ingest.memory_mb}; a decoding process needs at least 256")
    return run


def _check_codes(run: Run) -> None:
    codes, room = run.codes, run.network.w_dim - 2 * run.num_codes
    if codes.method == "official" and not (codes.grey and codes.source == "sample"):
        raise InputError(
            "codes.method official is the released code, which takes the grey Grams of one latent; set codes.grey and codes.source sample"
        )
    if codes.method == "official" and codes.space == "w+":
        raise InputError(
            "codes.space w+ is not to be had with codes.method official, as the released code knows codes of W alone; take codes.space w,"
            " or codes.method generalized or nullspace"
        )
    if isinstance(codes.rank, int) and not run.num_codes <= codes.rank <= room:
        raise InputError(
            f"codes.rank {codes.rank} is not between num_codes {run.num_codes}, which r_a must give, and {room}, above which r_b leaves no"
            f" room for twice the codes in the {run.network.w_dim} dimensions of w; give a number between, or take codes.rank energy"
        )


def check_pairs(run: Run) -> None:
    """Raise InputError for a run of single frames, which has a stage 1 only."""
    if run.network.frames != 2:
        raise InputError(
            f"network.frames is {run.network.frames}: motion codes, videos and their report need pairs; train single frames by `python -m "
            "jobs.pairs` alone and measure them by `python -m jobs.evaluate --measure pairs`, or take --network.frames 2"
        )


def _windows_divide(stage: str, items: int, group: int) -> None:
    if items % group:
        raise InputError(
            f"a window of {stage} holds {items} items, which is no multiple of {stage}.group {group}; change {stage}.pieces_per_window"
        )


MAY_BE_ZERO = {
    "seed", "max_skipped", "ingest.qp", "ingest.max_rejected", "pairs.r1_gamma", "pairs.pl_weight", "pairs.style_mixing", "pairs.ema_kimg",
    "pairs.ema_rampup", "pairs.evaluations", "video.epochs", "video.evaluations", "video.gp_weight", "video.drift_weight",
    "video.reach_weight", "video.frames_at_once",
}  # fmt: skip
SHARES = ("ingest.max_rejected", "pairs.style_mixing", "pairs.augment_p", "pairs.ada_target", "codes.energy")

MOST_PIXELS = 2048
AT_MOST: dict[str, float] = {
    "network.z_dim": 8192, "network.w_dim": 8192, "network.mapping_layers": 64, "network.channel_base": 2**23, "network.channel_max": 4096,
    "latents": 10**6, "stride": 10**6, "seed": 2**63 - 1,
    "pairs.total_kimg": 10**9, "pairs.batch": 2**20, "pairs.group": 2**20, "pairs.accumulate": 2**20, "pairs.lr": 1,
    "pairs.r1_gamma": 10**5, "pairs.pl_weight": 10**5, "pairs.pieces_per_window": 2**16, "pairs.pairs_per_piece": 2**16,
    "pairs.evaluations": 10**5, "pairs.eval_pairs": 10**7,
    "video.epochs": 10**9, "video.total_clips": 10**12, "video.num_frames": 10**5, "video.batch": 2**20, "video.group": 2**20,
    "video.hidden": 8192, "video.init_std": 100, "video.lr": 1, "video.gp_weight": 10**5, "video.drift_weight": 10**5,
    "video.reach_weight": 10**5, "video.g_steps": 10**4, "video.d_channels": 4096, "video.d_scales": 8, "video.pieces_per_window": 2**16,
    "video.evaluations": 10**5, "video.eval_clips": 10**7,
}  # fmt: skip
"""Far above what the field's networks and trainings have: beyond are slips of the hand, which memory or time would end much later."""
MOST = 10**15
"""Of every other number."""


def _check_numbers(values: dict[str, Any], where: str = "") -> None:
    """Every number is finite and above 0, or at least 0 where zero turns something off."""
    for key, value in values.items():
        path = where + key
        if isinstance(value, dict):
            _check_numbers(value, path + ".")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if not (value >= 0 if path in MAY_BE_ZERO else value > 0) or value == float("inf"):
                bound = "at least 0" if path in MAY_BE_ZERO else "at least 1" if isinstance(value, int) else "above 0"
                raise InputError(f"{path} is {value}; it must be {'finite and ' if math.isinf(value) else ''}{bound}")
            if value > AT_MOST.get(path, MOST):
                raise InputError(f"{path} is {value}; it must be at most {AT_MOST.get(path, MOST)}")
            if path in SHARES and value > 1:
                raise InputError(f"{path} is {value}; it is a share, so give at most 1")
            if path in ("pairs.total_kimg", "pairs.tick_kimg", "pairs.commit_kimg") and value < 0.001:
                raise InputError(f"{path} is {value}; it must be at least 0.001, which is one pair")


def validate_resources(resources: Resources) -> Resources:
    """Check where a run is to be computed. Raises InputError."""
    for name, value in to_dict(resources).items():
        if isinstance(value, str):
            continue
        least = 1 if name in ("workers", "max_missed_commits", "hang_s", "start_s") else 0
        if not least <= value < math.inf:
            raise InputError(f"{name} is {value}; it must be at least {least}")
    if resources.min_workers > resources.workers:
        raise InputError(
            f"min_workers is {resources.min_workers}, above workers {resources.workers}; give fewer, or 0 to wait for all of them"
        )
    if not 0.0001 <= resources.gpu_share <= 1:  # Ray counts no finer
        raise InputError(f"gpu_share is {resources.gpu_share}; give the share of a GPU that a task takes, from 0.0001 to 1")
    check_tracker(resources.track)
    return resources


TRACKERS = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
"""The package of each tracker; MLflow whole brings the same one."""


def check_tracker(track: str) -> None:
    """Raise InputError when this machine cannot tell the tracker anything: its package is missing, or nobody said where it is."""
    if track not in TRACKERS:
        return
    try:
        version(TRACKERS[track])
    except PackageNotFoundError:
        raise InputError(
            f"--track {track} needs the package {TRACKERS[track]}, which is not installed on {gethostname()}; "
            f"pip install 'mvgan[{track}]', or leave --track away"
        ) from None
    if track == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            f"--track mlflow needs the server's address in MLFLOW_TRACKING_URI, which is not set on {gethostname()}; set it on every "
            "machine that trains, or leave --track away"
        )
