"""Presets: functions that return a Run. The docstring gives the command, the hardware and where figures come from.

And profiles: where a run is computed.
"""

from collections.abc import Callable
from dataclasses import replace

from mvgan.config import Codes, InputError, Network, Pairs, Resources, Run, Video


def demo() -> Run:
    """Any small set of videos at 32 px, on a laptop with 2 cores: `make demo`, or `make demo VIDEOS=folder`.

    Stage 3 is trained at stride = k: consecutive frames of a generated video come from the two sides of a pair,
    which lie k frames apart.
    """
    return Run(
        resolution=32,
        interval=(4,),
        stride=4,
        num_codes=10,
        latents=8,
        # Without noise injection and style mixing: a run this short would use the noise to feign detail, and codes that
        # edit one frame alone need the layers to act together. In fp32: CPUs without bf16 of their own take 10 times as long in it.
        network=Network(z_dim=512, w_dim=512, mapping_layers=4, channel_base=1024, channel_max=128, noise=False, precision="fp32"),
        pairs=Pairs(
            total_kimg=20, batch=8, lr=0.005, r1_gamma=6.0, pl_weight=0.0, style_mixing=0.0, ema_kimg=3.0,
            ema_rampup=0.15, tick_kimg=0.4, commit_kimg=5, evaluations=4,
        ),
        codes=Codes(tolerance=1e-5),
        video=Video(
            total_clips=1600, batch=8, hidden=256, residual=0.08, step="motion", init_std=0.2, drift_weight=3.0, g_steps=1, lr=1e-3,
            d_channels=8, d_scales=1, tick_clips=160, commit_clips=800,
        ),
    )  # fmt: skip


def smoke() -> Run:
    """A first look at 16 px, over in three minutes on 2 cores: `make demo PRESET=smoke`. Too short to judge the method by."""
    return Run(
        resolution=16,
        interval=(4,),
        stride=4,
        num_codes=4,
        latents=4,
        network=Network(z_dim=64, w_dim=64, mapping_layers=2, channel_base=512, channel_max=64, noise=False, precision="fp32"),
        pairs=Pairs(
            total_kimg=3.2, batch=8, r1_gamma=2.0, pl_weight=0.0, style_mixing=0.0, ema_kimg=1.0, tick_kimg=0.8, commit_kimg=1.6,
            evaluations=2, eval_pairs=256,
        ),
        codes=Codes(lam=1 / 8),
        video=Video(
            total_clips=160, batch=8, hidden=64, residual=0.07, step="motion", init_std=0.2, drift_weight=3.0, g_steps=1, lr=1e-3,
            d_channels=8, d_scales=1, tick_clips=80, commit_clips=160,
        ),
    )  # fmt: skip


def tiny() -> Run:
    """The paper's tables on one machine: `python -m jobs.reproduce table5 --scale tiny --videos folder`. As demo, but half as long.

    Clips at stride 1, as in the paper, whatever the interval: trials of other intervals can then be compared.
    """
    base = demo()
    return replace(
        base,
        stride=1,
        pairs=replace(base.pairs, total_kimg=10, commit_kimg=10, evaluations=2),
        video=replace(base.video, total_clips=800, commit_clips=800, evaluations=4),
    )


def gpu64() -> Run:
    """Any videos at 64 px, on one GPU: `python -m jobs.pipeline --preset gpu64 --videos folder --gpu`.

    StyleGAN2-ADA's rules for one GPU (batch 32, R1 gamma 0.0002 px^2 / batch, half the channels of the paper's networks), its ADA and
    mirroring, with the paper's codes and video networks. Not yet run: for how long stage 1 takes see docs/benchmarks.md.
    """
    return _one_gpu(64, total_kimg=2000)


def gpu128() -> Run:
    """Any videos at 128 px, on one GPU: `python -m jobs.pipeline --preset gpu128 --videos folder --gpu`.

    As gpu64. Not yet run.
    """
    return _one_gpu(128, total_kimg=4000)


def _one_gpu(resolution: int, *, total_kimg: float) -> Run:
    batch = 32
    return Run(
        resolution=resolution,
        interval=(4,),
        stride=4,
        num_codes=30,
        latents=10,
        network=Network(mapping_layers=2, channel_base=16384),
        pairs=Pairs(
            total_kimg=total_kimg, batch=batch, lr=0.0025, r1_gamma=0.0002 * resolution**2 / batch, mirror=True, ema_kimg=batch * 10 / 32,
            augment="ada", tick_kimg=8, commit_kimg=200,
        ),
        codes=Codes(select="best"),
        video=Video(
            total_clips=20000, num_frames=16, hidden=512, residual=0.08, step="motion", init_std=0.2, drift_weight=3.0, lr=1e-4, batch=16
        ),
    )  # fmt: skip


def _paper(*, batch: int, epochs: int) -> Run:
    """What the paper's three data sets share (Sec. IV, Appendix VII-B and the released code)."""
    return Run(
        resolution=256,
        interval=(4,),
        stride=1,
        num_codes=30,
        latents=10,
        pairs=Pairs(total_kimg=25000, batch=batch, r1_gamma=1.0, mirror=True, ema_kimg=batch * 10 / 32, augment="ada"),
        codes=Codes(select="best"),
        video=Video(epochs=epochs, num_frames=16, hidden=512, lr=1e-4, batch=16, tick_clips=1600, commit_clips=3200),
    )


def ucf101() -> Run:
    """UCF101 at 256 px: `python -m jobs.pipeline --preset ucf101 --videos s3://bucket/ucf101 --workers 4 --gpu`.

    The paper used 4 RTX 3090 (Sec. IV). Its figures: FID of pairs 37.70 at 7,680 kimg (Table I), FVD 1031.4 and
    IS 25.88 +- 0.39 (Table II). Not yet reproduced here.
    """
    return _paper(batch=32, epochs=5)


def faceforensics() -> Run:
    """FaceForensics at 256 px: `python -m jobs.pipeline --preset faceforensics --videos s3://bucket/ffs --workers 4 --gpu`.

    The paper used 4 RTX 3090. Its figures: FID of pairs 9.65 at 4,800 kimg, FVD 108.8 (Tables I and III); 97.4 with
    `--interval 2,3,4` (Sec. V). Not yet reproduced here.
    """
    return _paper(batch=16, epochs=45)


def skytimelapse() -> Run:
    """SkyTimelapse at 256 px: `python -m jobs.pipeline --preset skytimelapse --videos s3://bucket/sky --workers 4 --gpu`.

    The paper used 4 RTX 3090. Its figures: FID of pairs 10.48 at 8,600 kimg, FVD 157.9 (Tables I and III). Not yet
    reproduced here.
    """
    return _paper(batch=32, epochs=20)


PRESETS: dict[str, Callable[[], Run]] = {f.__name__: f for f in (demo, smoke, tiny, gpu64, gpu128, ucf101, faceforensics, skytimelapse)}


def preset(name: str) -> Run:
    """The Run of a preset. Raises InputError for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()


PROFILES = {
    "laptop": Resources(),
    "one-gpu": Resources(gpu=True),
    "node8": Resources(workers=8, gpu=True),
    # Nodes that are only started when they are asked for take their time.
    "multi-node": Resources(workers=16, gpu=True, start_s=1800),
    # Nodes come and go: whoever is left goes on, and it is no failure of the run to wait an hour for a machine.
    "spot": Resources(workers=8, min_workers=1, gpu=True, start_s=3600, max_failures=10),
}
"""Resources by name; flags go before them."""


def profile(name: str) -> Resources:
    """The Resources of a profile. Raises InputError for an unknown name."""
    if name not in PROFILES:
        raise InputError(f"unknown profile {name!r}; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
