"""What a run is: frozen dataclasses, from which every number of a run follows.

`Run` holds what changes numbers and is written to `run.json`. `Resources` holds only where it runs, may be others at each
start, and is not recorded.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro


class InputError(ValueError):
    """A user's mistake, as one line: what was wrong, what was expected, what to do."""


class Ended(RuntimeError):
    """What ended a run that nothing is wrong with, as one line: what happened, what to do. The same command goes on with it."""


def _intervals(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


Intervals = Annotated[
    tuple[int, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="K[,K...]",
        instance_from_str=lambda args: _intervals(args[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    ),
]
"""A set of frame intervals; on the command line a comma makes one mixed set: `2,3,4`."""


@dataclass(frozen=True)
class Ingest:
    """How videos become shards."""

    frames_per_piece: int = 16
    """Frames of one closed H.264 GOP, the unit of decoding."""
    qp: int = 14
    """H.264 quantizer of the shards (0 to 51, lower is better)."""
    shard_mb: int = 64
    """Size at which a shard is closed, in MB."""
    fps: Annotated[float | None, tyro.conf.arg(prefix_name=False)] = None
    """Frame rate of folders of numbered frames (videos carry their own)."""
    resample_fps: float | None = None
    """Bring videos to this constant frame rate, each frame the one nearest in time; else frames are taken as they come."""
    min_frames: int = 2
    """Frames below which a video is rejected as too short; a pair needs two."""
    min_size: int = 16
    """Pixels of the shorter side below which a video is rejected as too small."""
    max_pixels: int = 4096 * 4096
    """Most pixels of a frame; more are refused before they are decoded."""
    max_frames: int = 1_000_000
    """Most frames of a video; a longer one is rejected."""
    max_mb: int = 16384
    """Largest source, in MB."""
    max_seconds: float = 1800
    """Longest time to decode and code one source; then its process is killed and it is rejected."""
    memory_mb: int = 2048
    """Most memory of the process that decodes, in MB, some 200 of them for itself."""
    max_rejected: float = 0.5
    """Share of undecodable files above which ingest stops."""


@dataclass(frozen=True)
class Network:
    """MotionStyleGAN, a StyleGAN2 with two frames of 3 channels."""

    frames: Literal[2, 1] = 2
    """Frames of a sample: 2, or 1 for StyleGAN2 on single frames, the baseline of the paper's Tables I and VI (stage 1 only)."""
    z_dim: int = 512
    """Size of the input noise z."""
    w_dim: int = 512
    """Size of the latent code w."""
    mapping_layers: int = 8
    """Fully connected layers from z to w."""
    channel_base: int = 32768
    """Channels times resolution."""
    channel_max: int = 512
    """Most channels of any layer."""
    noise: bool = True
    """Inject noise after each convolution of the generator."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Precision of the convolutions in training; weights and sums stay fp32. fp16 clamps activations, as its numbers end early."""


@dataclass(frozen=True)
class Pairs:
    """Stage 1: MotionStyleGAN on frame pairs."""

    total_kimg: float = 25000
    """Length of training in thousands of pairs."""
    batch: int = 32
    """Pairs per step, over all workers."""
    group: int = 4
    """Pairs per logical shard and step: one minibatch-stddev group. Divides the batch."""
    accumulate: int = 1
    """Parts in which a worker computes its logical shards, one after another, adding up gradients: less memory, the same batch. Changes
    numbers by rounding, and by the mean of path lengths, which is each part's own, so that with parts the number of workers enters too."""
    lr: float = 0.002
    """Adam learning rate of both networks."""
    r1_gamma: float = 1.0
    """Weight of the R1 penalty."""
    r1_every: int = 16
    """Steps between R1 penalties."""
    pl_weight: float = 2.0
    """Weight of path length regularisation; 0 turns it off."""
    pl_every: int = 4
    """Steps between path length penalties."""
    style_mixing: float = 0.9
    """Probability of mixing two latent codes in a sample."""
    ema_kimg: float = 10.0
    """Half-life of the averaged generator, in thousands of pairs."""
    ema_rampup: float = 0.05
    """The half-life is at most this share of the pairs seen so far; with pairs.init_from it is whole from the start."""
    mirror: bool = False
    """Mirror half of all pairs, both frames together."""
    init_from: str | None = None
    """Weights to begin with: another run (its newest commit), or a folder as export/ or import_weights made it. What does not fit these
    networks begins anew; --dry-run says what fits. The average takes no pairs.ema_rampup; for ada, StyleGAN2-ADA takes ada_kimg 100."""
    augment: Literal["none", "ada", "fixed"] = "none"
    """Augment what D sees, both frames alike: none, ada (adaptively: for small data sets) or fixed (with augment_p)."""
    augment_p: float = 0.2
    """Probability of each augmentation when it is fixed, at most 1."""
    ada_target: float = 0.6
    """Mean sign of D on real pairs that ada aims at: above it D overfits, and ada augments more."""
    ada_kimg: float = 500
    """Thousands of pairs in which ada can raise the probability from 0 to 1."""
    ada_interval: int = 4
    """Steps between two moves of ada's probability."""
    balance: Literal["frames", "videos"] = "frames"
    """Draw uniformly over frames (long videos count more) or over videos."""
    pieces_per_window: int = 16
    """Pieces of different videos in one window, the unit of decoding and resuming."""
    pairs_per_piece: int = 4
    """Pairs drawn from each decoded piece."""
    tick_kimg: float = 4.0
    """Thousands of pairs between log lines and sample grids."""
    commit_kimg: float = 200.0
    """Thousands of pairs between commits."""
    evaluations: int = 20
    """How often the Frechet distance to real pairs is taken over the run."""
    eval_pairs: int = 1024
    """Real and generated pairs of each such measure."""


RankRule = Literal["energy", "full"] | int


@dataclass(frozen=True)
class Codes:
    """Stage 2: motion codes from the Jacobian of MotionStyleGAN."""

    select: Literal["last", "best"] = "last"
    """Which commit of stage 1 is used: the last, or the one with the best Frechet distance."""
    method: Literal["generalized", "nullspace", "official", "random"] = "generalized"
    """Generalised eigenproblem of the two Grams; null-space projection (eq. 8); the released code step by step (official), which takes
    the grey Grams of one latent, so give codes.grey and codes.source sample with it; or random directions, the paper's ablation."""
    space: Literal["w", "w+"] = "w"
    """Where a code acts: in all layers of the synthesis network (w), or in a single one (w+), by Grams of each layer. Then only the method
    nullspace has them factorized, as that takes a factorization per layer, and official is not to be had."""
    source: Literal["mean", "sample"] = "mean"
    """Codes from the mean Gram of all latents, which count alike whatever their traces, or from those of one latent alone: the first, or
    for official the last, as released."""
    epsilon: float = 0.001
    """Floor under the Gram of the kept frame, as a share of its mean eigenvalue, in coordinates in which w vary alike in all directions
    (generalized). Lower separates the frames better, higher gives codes that move more within what the generator knows."""
    lam: float = 1 / 60
    """Weight of the sparse part in the low-rank factorization."""
    rank: RankRule = "energy"
    """Ranks r_a and r_b of the low-rank parts (nullspace): what holds codes.energy of them, full (their numerical rank), or a number
    for both, where they have as many. r_b leaves room for twice the codes."""
    energy: float = 0.99
    """Share of the low-rank spectrum that sets r_a and r_b where codes.rank is energy."""
    max_iterations: int = 1000
    """Bound on ADMM iterations (official has its own, 10000)."""
    tolerance: float = 1e-7
    """Primal and dual residual, relative, at which ADMM stops (official: the primal one, at 1e-7)."""
    chunk: int = 64
    """Most tangents pushed through the generator at once; on a CPU fewer, where that is faster."""
    grey: bool = False
    """Take the Jacobian of the grey mean, as the released code does, instead of RGB."""


@dataclass(frozen=True)
class Video:
    """Stage 3: the latent code generator."""

    epochs: float = 0
    """Length in epochs of one clip per video; 0 means that total_clips holds."""
    total_clips: int = 2000
    """Length of training in clips, when epochs is 0."""
    num_frames: int = 16
    """Frames per clip."""
    batch: int = 16
    """Clips per step, over all workers."""
    group: int = 4
    """Clips per logical shard and step. Divides the batch."""
    hidden: int = 512
    """Hidden size of the LSTMs."""
    residual: float = 0.2
    """Length of one step along the motion codes."""
    step: Literal["unit", "motion"] = "unit"
    """What a step of length 1 along a code is: a unit vector, or as long as changes its frame by as much as real frames
    two strides apart differ (the frames that one side of the pair shows in turn)."""
    first: Literal["former", "latter"] = "latter"
    """Which frame of the first pair opens the video."""
    loss: Literal["ralsgan", "log"] = "ralsgan"
    """Relativistic average LSGAN with gradient penalty (released code), or eq. 12-14."""
    saturating: bool = True
    """With the log loss: minimise log(1 - D) as eq. 14 says, or maximise log D."""
    gp_weight: float = 10.0
    """Weight of the gradient penalty of ralsgan."""
    d_v: bool = True
    """Train against D_V, which sees each frame beside the first one."""
    d_r: bool = True
    """Train against D_R, which sees each clip beside its reverse (eq. 13)."""
    d_i: bool = False
    """Train against D_I too, the image discriminator of the paper's Table IV: a later frame shall look like first frames."""
    init_std: float = 0.02
    """Standard deviation of the weights of the coefficients at the start. At the released 0.02 walks hardly leave w_0 at first, and what
    makes them move grows with how far they go: a short training then learns to drift, or nothing. 0.2 begins with a random walk."""
    drift_weight: float = 0.0
    """Weight of a term that keeps each code's mean coefficient over a batch near 0. Without it (as released) all may walk one way."""
    reach_weight: float = 0.0
    """Weight of a term that keeps walks within reach: the mean square distance from w_0, by direction of the codes in standard deviations
    of mapped w, shall not be above 1. Without it (as released) edits may lead to w that the generator has never seen."""
    g_steps: int = 5
    """Generator steps per discriminator step."""
    lr: float = 1e-4
    """Adam learning rate of all networks of this stage."""
    d_channels: int = 64
    """Channels of the first layer of each discriminator."""
    d_scales: int = 2
    """Scales of each discriminator."""
    frames_at_once: int = 0
    """Frames of a worker's batch whose activations are held for the gradient of L_omega; they are computed twice. 0 holds all."""
    balance: Literal["frames", "videos"] = "videos"
    """Draw clips uniformly over videos, or over frames."""
    pieces_per_window: int = 8
    """Clips of different videos in one window."""
    tick_clips: int = 320
    """Clips between log lines."""
    commit_clips: int = 3200
    """Clips between commits."""
    evaluations: int = 0
    """How often the Frechet distance to real clips is taken over the stage; 0 leaves it."""
    eval_clips: int = 256
    """Real and generated clips of each such measure."""
    select: Literal["last", "best"] = "last"
    """Which commit of this stage is exported: the last, or the one with the best Frechet distance."""


@dataclass(frozen=True)
class Run:
    """Everything that changes the numbers of a run."""

    resolution: int = 256
    """Frame size in pixels, a power of two."""
    interval: Intervals = (4,)
    """k: frames between the two frames of a pair; a comma makes one mixed set (2,3,4)."""
    stride: int = 1
    """Frame stride of the clips of stage 3."""
    num_codes: int = 30
    """Motion codes each way."""
    latents: int = 10
    """Latent samples whose Jacobians are factorized. Codes of more of them separate the frames better at latents they have not seen."""
    seed: int = 0
    """Seed of everything random."""
    deterministic: bool = False
    """Use only kernels whose result does not vary between runs (slower on a GPU)."""
    max_skipped: int = 5
    """Steps in a row that a phase of training leaves out because loss or gradients are not finite; one more is a rollback."""
    ingest: Ingest = field(default_factory=Ingest)
    network: Network = field(default_factory=Network)
    pairs: Pairs = field(default_factory=Pairs)
    codes: Codes = field(default_factory=Codes)
    video: Video = field(default_factory=Video)


@dataclass(frozen=True)
class Resources:
    """Where a run is computed; changes no number but by rounding."""

    workers: int = 1
    """Training workers."""
    min_workers: int = 0
    """Fewest with which training goes on while the cluster has no room for all; it takes more when it has. 0 waits for all of them."""
    gpu: bool = False
    """Give each worker a GPU (nccl); otherwise CPU (gloo)."""
    gpu_share: float = 1.0
    """Share of a GPU that a task of codes, evaluate or generate takes: with 0.5 two run on one at a time, if its memory holds both."""
    threads: int = 0
    """CPU threads per worker; 0 shares the cores of its machine, but for one, among the workers there."""
    max_failures: int = 3
    """How often a failed group of workers is restarted from the last commit; counted anew after each new commit."""
    hang_s: float = 600
    """Seconds without a finished step after which workers are restarted. Must be longer than any step, measure and commit."""
    start_s: float = 900
    """Seconds within which the workers must have begun, counted anew at each restart."""
    max_hours: float = 0
    """Hours after which the command ends; the same command goes on. 0 sets no bound."""
    max_missed_commits: int = 3
    """Commits in a row that the storage may refuse before the run is ended."""
    track: Literal["none", "mlflow", "wandb"] = "none"
    """Tracker that is told the metrics too, beside TensorBoard's files; its own environment says where it is and who one is there."""


STAGES = ("ingest", "pairs", "codes", "video")

ANOTHER_NAME = "under another --name of jobs.pipeline or jobs.pairs"
"""Advice that every verb can give: those that take --run have no --name of their own."""


def stage_of(path: str) -> str:
    """The first stage that the field `path` (dotted, within Run) shapes."""
    root = path.split(".")[0]
    if root in ("ingest", "codes", "video"):
        return root
    return {"resolution": "ingest", "num_codes": "codes", "latents": "codes", "stride": "video"}.get(root, "pairs")
