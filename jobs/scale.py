"""What a training would do on another cluster, by arithmetic on measured figures."""

import dataclasses
from dataclasses import dataclass, field

from jobs._cli import Settings, main
from mvgan.config import InputError, Resources
from mvgan.presets import profile
from mvgan.scaling.cluster import Cluster, Videos
from mvgan.scaling.simulate import lines, simulate
from mvgan.scaling.sweep import sweep_lines


@dataclass(frozen=True)
class Flags(Settings):
    """Flags of this verb: those of a training, whose --workers are GPUs, and what the cluster has."""

    cluster: Cluster = field(default_factory=Cluster)
    videos: Videos = field(default_factory=Videos)
    trials: int = 0
    """Tell also how long so many trainings of these settings and --workers each take, as a sweep, on --sweep-nodes."""
    sweep_nodes: int = 0
    """Nodes of a sweep."""


READS = ("workers", "gpu")
"""Of what says where a run is computed; that it is on GPUs is taken for granted."""


def run(flags: Flags) -> None:
    """Simulate and print."""
    for setting in dataclasses.fields(Resources):
        given = getattr(flags.resources, setting.name) != getattr(profile(flags.profile), setting.name)
        if setting.name not in READS and given:
            raise InputError(f"the simulation reads no --{setting.name.replace('_', '-')}; leave it away")
    answer = simulate(flags.settings, flags.resources.workers, flags.cluster, flags.videos)
    said = list(lines(answer, flags.settings, flags.cluster))
    if flags.trials or flags.sweep_nodes:
        said += sweep_lines(answer, flags.settings, flags.trials, flags.sweep_nodes, flags.cluster)
    print("\n".join(said))


if __name__ == "__main__":
    main(
        run,
        Flags,
        "Say how fast stage 1 would train on another cluster, what would bound it, and what would not work: arithmetic on figures that "
        "were measured (docs/benchmarks.md, docs/scaling.md). Takes the flags of a training and those of a cluster; asks no cluster and no "
        "storage.",
    )
