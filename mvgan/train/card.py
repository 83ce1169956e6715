"""The model card of a run, `export/README.md`: what was trained on what, how good it is by which protocol, and what it is not for.

Its front matter is Hugging Face's. All of it follows from the run's folder, so that the same folder gives the same bytes, but for what
belongs to the user: the licence fields of the front matter and the lines between two marks are taken over from the card before.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from mvgan import __version__
from mvgan.config import Run
from mvgan.data.shards import ShardSet
from mvgan.metrics.features import CLIP_LABEL, LABEL
from mvgan.metrics.frechet import RESAMPLES
from mvgan.motion.evaluate import TARGET_MSE
from mvgan.settings import to_dict
from mvgan.train.state import UNITS


CARD = "export/README.md"

LICENCE_FIELDS = ("license", "license_name", "license_link")

BEGIN, END = "<!-- Yours, kept when the card is written again: -->", "<!-- End of what is yours. -->"

TO_FILL_IN = """- Licence of the weights: **not stated. To be filled in by whoever publishes them.**
- Licence of the videos, and whether those whom they show have agreed: **not stated. To be filled in likewise.**"""

FILES = {
    "generator.safetensors": "MotionStyleGAN, the generator of frame pairs (averaged weights)",
    "codes.safetensors": "motion codes and the mean Gram matrices they come from",
    "codes.json": "how the codes were found, and how well they separate the frames",
    "latent.safetensors": "the LSTM that walks the codes",
    "config.json": "settings, frame rate, and after how many images the weights were taken",
}
"""What an export may hold, beside this card."""

NO_NUMBERS = {
    "pairs.tick_kimg", "pairs.commit_kimg", "video.tick_clips", "video.commit_clips", "video.frames_at_once", "codes.chunk",
    "ingest.max_mb", "ingest.max_seconds", "ingest.memory_mb", "ingest.shard_mb", "ingest.max_rejected",
}  # fmt: skip
"""Settings that shape no weights."""

RESULT = (
    "measure", "protocol", "protocol_says", "error_says", "seed", "frames", "real_samples", "generated_samples", "features_sha256",
    "features", "generator_sha256", "data", "data_content_hash",
)  # fmt: skip
"""What is read of a result, beside its figure."""

FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)


@dataclass(frozen=True)
class Yours:
    """What of a card belongs to the user."""

    licence: Mapping[str, Any] = field(default_factory=lambda: {"license": "unknown"})
    lines: str = TO_FILL_IN


@dataclass(frozen=True)
class Facts:
    """What a card is made of."""

    name: str
    """Of the run."""
    run: Run
    shards: ShardSet
    files: Mapping[str, bytes]
    """Those of `FILES` that are there."""
    stages: Sequence[str]
    """Whose files are there and belong together."""
    images: Mapping[str, int]
    """After how many images (clips) the exported weights of a stage were taken."""
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    """The records of the trained stages."""
    codes: Mapping[str, Any]
    """The content of codes.json."""
    networks: Mapping[str, str]
    """Hash of the exported networks of a stage, as results of evaluations name it."""
    results: Sequence[Mapping[str, Any]]
    """Results of evaluations."""
    versions: Mapping[str, str]


def check_result(result: Any) -> None:
    """Raises LookupError or TypeError for what is no result of an evaluation."""
    if not isinstance(result, dict):
        raise TypeError(f"it holds {type(result).__name__}")
    for key in RESULT:
        result[key]
    if not {"score", "distance"} & result.keys():
        raise LookupError("it has no figure")


def yours_of(card: str) -> Yours:
    """What of `card` belongs to the user. Raises ValueError where it cannot be told."""
    found = FRONT.match(card)
    if found is None:
        raise ValueError("it does not begin with front matter between two lines of ---")
    try:
        front = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"its front matter is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(front, dict):
        raise ValueError("its front matter has no fields")
    _, begun, rest = card.partition(f"\n{BEGIN}\n")
    lines, ended, _ = rest.partition(f"\n{END}\n")
    if not (begun and ended):
        raise ValueError(f"the lines {BEGIN} and {END} are not both there")
    return Yours({name: front[name] for name in LICENCE_FIELDS if name in front}, lines)


def render(facts: Facts, yours: Yours) -> str:
    """The card."""
    parts = [_front(facts, yours), f"# {_plain(facts.name)}", _summary(facts), _licence(yours), _usage(facts), _data(facts)]
    parts += [_metrics(facts), _limits(facts), _settings(facts), _files(facts)]
    return "\n\n".join(parts) + "\n"


def _front(facts: Facts, yours: Yours) -> str:
    tags = ["motionvideogan", "stylegan2", "gan", "unconditional", "video-generation" if "video" in facts.stages else "image-generation"]
    about = {"library_name": "mvgan", "pipeline_tag": "unconditional-image-generation", "tags": [*tags, "pytorch", "safetensors"]}
    words = "# license, license_name and license_link are yours, and kept when the card is written again. mvgan's code is MIT."
    fields = yaml.safe_dump({**yours.licence, **about}, sort_keys=False, allow_unicode=True)
    return f"---\n{words}\n{fields}---"


def _summary(facts: Facts) -> str:
    run, done = facts.run, facts.stages
    size = f"{run.resolution} x {run.resolution} px"
    if run.network.frames == 1:
        what = f"A StyleGAN2 of single frames of {size}, the baseline of the MotionVideoGAN paper. It makes no videos."
    elif "video" in done:
        what = f"An unconditional generator of videos of {size}: MotionVideoGAN (Zhu et al., IEEE TMM 2023), trained by mvgan."
    else:
        more = " and motion codes" if "codes" in done else ""
        what = (
            f"A generator of frame pairs of {size}{more}: the first part of a MotionVideoGAN (Zhu et al., IEEE TMM 2023), trained by "
            "mvgan. **It makes no videos yet: stage video has not ended.**"
        )
    wrote = f"mvgan {__version__} wrote this card from what the run's folder holds; a figure that is not here was not measured."
    return f"{what}\n\n{wrote}"


def _licence(yours: Yours) -> str:
    return f"## Licence\n\n- Code of mvgan, which made these files and reads them: MIT.\n\n{BEGIN}\n{yours.lines}\n{END}"


def _usage(facts: Facts) -> str:
    if facts.run.network.frames == 1:
        return "## How to load\n\nA run of single frames can begin with these weights by `--pairs.init-from`."
    if "video" not in facts.stages:
        return "## How to load\n\nVideos can be had once stage video has ended; a run can begin with these weights by `--pairs.init-from`."
    frames, size = facts.run.video.num_frames, facts.run.resolution
    return (
        "## How to load\n\n```python\nfrom mvgan.sample import Generator\n\n"
        '# "folder", or an s3:// prefix, is what holds the folder export/ with these files\n'
        f'videos = Generator.load("folder").sample(seeds=range(4), num_frames={frames})'
        f"  # uint8 [4, {frames}, 3, {size}, {size}]\n```\n\n"
        f'or `python -m jobs.generate --run folder --seeds 0-15 --frames {frames} --grid 4x4 --out videos.mp4`. At '
        f"{np.median(facts.shards.fps) / facts.run.stride:.4g} frames a second motion has its natural speed."
    )  # fmt: skip


def _data(facts: Facts) -> str:
    shards, manifest = facts.shards, facts.shards.manifest
    fps, lengths = sorted(set(shards.fps.tolist())), manifest["lengths"]
    rate = f"{fps[0]:.4g}" if len(fps) == 1 else f"{fps[0]:.4g} to {fps[-1]:.4g}, median {np.median(shards.fps):.4g}"
    rows = [
        ("videos", f"{manifest['num_videos']:,}"),
        ("frames", f"{manifest['num_frames']:,}, {lengths['min']} to {lengths['max']} a video"),
        ("frames a second", rate),
        ("resolution", f"{shards.resolution} px, the centre square of each video"),
        ("rejected sources", f"{len(manifest['rejected']):,}"),
        ("shard set", public(shards.uri)),
        ("hash of its content", f"`{shards.content_hash}`"),
    ]
    if "sources_sha256" in manifest:
        rows.append(("hash of names and sizes of the sources", f"`{manifest['sources_sha256']}`"))
    return "## Data\n\n" + _table(("of the shard set", ""), rows)


def _metrics(facts: Facts) -> str:
    parts = [_training(facts, stage) for stage in ("pairs", "video") if stage in facts.stages]
    parts += [_codes(facts), _evaluations(facts), _unmeasured(facts)]
    return "## Metrics\n\n" + "\n\n".join(part for part in parts if part)


def _training(facts: Facts, stage: str) -> str:
    found = {record["images"]: record for record in facts.histories.get(stage, ()) if "frechet" in record}
    if not found:
        return ""
    own, unit = facts.images.get(stage), UNITS[stage]
    count = facts.run.pairs.eval_pairs if stage == "pairs" else facts.run.video.eval_clips
    shown = sorted({min(found), max(found), *({own} & found.keys())})
    rows = [
        (f"{images:,}" + (", the exported weights" if images == own else ""), _with_error(found[images]["frechet"], found[images]))
        for images in shown
    ]
    words = (
        f"Taken while stage {stage} trained: Frechet distance in {LABEL if stage == 'pairs' else CLIP_LABEL}, of {count:,} generated "
        f"and as many real {unit}, drawn as training draws them. The features are those of small random networks: they tell states of one "
        f"training apart, and compare with nothing published. The error is the standard deviation over {RESAMPLES} draws with replacement."
    )
    return f"### Stage {stage}\n\n{words}\n\n" + _table((f"after {unit}", "Frechet distance"), rows)


def _codes(facts: Facts) -> str:
    edits = facts.codes.get("edits", {}).get(facts.codes.get("method"), {})
    if "codes" not in facts.stages or not edits:
        return ""
    rows = [(direction, f"{edit['median']:.3g}", f"{edit['worst']:.3g}") for direction, edit in sorted(edits.items())]
    latents = next(iter(edits.values()))["latents"]
    words = (
        "How much more a code changes the frame that it edits than the other one, as mean squares, each at a step that changes its own "
        f"frame by {TARGET_MSE:g} on [-1, 1], over {latents} fresh latents. A direction that changes both alike has 1."
    )
    return f"### Motion codes\n\n{words}\n\n" + _table(("codes", "median", "worst"), rows)


def _evaluations(facts: Facts) -> str:
    own = [result for result in facts.results if result["generator_sha256"] in facts.networks.values()]
    others = len(facts.results) - len(own)
    note = f"{others} more results in `evaluation/` of the run are of other networks than these." if others else ""
    if not own:
        return note
    heads = ("measure", "figure", "protocol", "real and generated", "frames", "seed", "features", "data", "beside it")
    protocols = sorted({f"- `{result['protocol']}`: {result['protocol_says']}" for result in own})
    lines = ["### By `jobs.evaluate`", _table(heads, [_result_row(facts, result) for result in own]), "\n".join(protocols)]
    errors = sorted({f"- Error of `{result['protocol']}`: {result['error_says']}." for result in own})
    return "\n\n".join([*lines, "\n".join(errors), *([note] if note else [])])


def _result_row(facts: Facts, result: Mapping[str, Any]) -> tuple[str, ...]:
    figure = _with_error(result["score"] if "score" in result else result["distance"], result)
    sides = f" (former {result['former']:.4g}, latter {result['latter']:.4g})" if "former" in result else ""
    same = result["data_content_hash"] == facts.shards.content_hash
    about = {"motion_ratio": "motion over real", "drift_share": "drift of content", "diversity_ratio": "diversity over real"}
    clips, counts = result.get("clips", {}), f"{result['real_samples'][0]:,} and {result['generated_samples'][0]:,}"
    return (
        result["measure"], figure + sides, f"`{result['protocol']}`", counts,
        str(result["frames"]), str(result["seed"]), f"`{result['features_sha256'][:16]}`", "these" if same else public(result["data"]),
        ", ".join(f"{words} {clips[key]:.3g}" for key, words in about.items() if clips.get(key) is not None),
    )  # fmt: skip


def _unmeasured(facts: Facts) -> str:
    own = [result for result in facts.results if result["generator_sha256"] in facts.networks.values()]
    by_network = any(isinstance(result["features"], Mapping) for result in own)
    missing = [] if by_network else ["FVD, FID and Inception Score, or any other figure in the features of a published network"]
    missing += ["whether generated videos repeat videos of the data", "how people judge them"]
    missing += ["how kinds of people or scenes differ in quality"]
    return "### Not measured\n\n" + "\n".join(f"- {what}" for what in missing)


def _limits(facts: Facts) -> str:
    run = facts.run
    lines = [
        "Meant for research on video generation: to sample, to see what motion codes do, to compare trainings by a named protocol.",
        "Not meant to deceive. If the data show people, the videos show people who were never filmed so, and may resemble those in the "
        "data: do not pass them off as recordings, do not imitate anyone, do not train on people who have not agreed. Nothing in the "
        "pixels marks a video as generated; say it where you show one.",
        "It shows what its data show, with their gaps and their bias, in centre squares; neither a text nor a label tells it what to show.",
    ]
    if "codes" in facts.stages:
        lines.append(
            f"The motion codes, {run.num_codes} each way, are directions of the latent space along which one frame of a pair shall change "
            f"and the other stay; how far they do is what the ratios under Metrics say, for small steps. {_origin(run)} None has a "
            "meaning that was given to it."
        )
    if "video" in facts.stages:
        lines.append(
            f"Videos were trained as clips of {run.video.num_frames} frames, at a stride of {run.stride} in the source. They can be "
            "made as long as one likes; that they stay good beyond that length was not measured."
        )
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _origin(run: Run) -> str:
    found = "They were found from the generator's Jacobian, without labels."
    return "They are random directions." if run.codes.method == "random" else found


def _settings(facts: Facts) -> str:
    config = to_dict(facts.run)
    made = facts.shards.manifest.get("settings", {})
    # What the shards were made with: a run on a shard set of its own has not shaped it.
    config["ingest"] = {name: made.get(name, value) for name, value in config["ingest"].items()}
    if config["pairs"]["init_from"] is not None:
        config["pairs"]["init_from"] = public(config["pairs"]["init_from"])
    skipped = {"pairs", "codes", "video"} - set(facts.stages)
    rows = [
        (f"`{path}`", _value(value))
        for path, value in _flat(config)
        if path not in NO_NUMBERS and path.split(".")[0] not in skipped
    ]  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return "## Settings\n\n" + _table(("setting", "value"), rows) + (f"\n\nStarted with {_plain(versions)}." if versions else "")


def _files(facts: Facts) -> str:
    rows = [
        (f"`{name}`", f"{len(facts.files[name]):,}", f"`{hashlib.sha256(facts.files[name]).hexdigest()}`", what)
        for name, what in FILES.items()
        if name in facts.files
    ]
    return "## Files\n\n" + _table(("file", "bytes", "sha256", "what it is"), rows)


def public(uri: str) -> str:
    """A place as it may be told to others: an object store's without credentials, of a local folder the last two names."""
    scheme, found, rest = uri.partition("://")
    if found:
        return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
    return "/".join(uri.rstrip("/").split("/")[-2:]) + " (a local folder)"


def _with_error(value: float, record: Mapping[str, Any]) -> str:
    error = record.get("error", record.get("frechet_error"))
    return f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _flat(config: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield where + key, value


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return str(value)


def _plain(words: str) -> str:
    """Text that Markdown takes for nothing else, in one line."""
    return re.sub(r"([\\`*_<>\[\]#|~])", r"\\\1", " ".join(words.split()))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [heads, ["---"] * len(heads), *([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
