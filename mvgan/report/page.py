"""`build_report`: from a run's folder to its `report.html`."""

import numpy as np

from mvgan.data.ingest import describe
from mvgan.metrics.features import LABEL
from mvgan.motion.factorize import METHODS
from mvgan.report import charts, markup, pictures
from mvgan.report.collect import Facts, all_gates, collect, real_against_real
from mvgan.report.drift import drift_table
from mvgan.report.gates import MIN_MEDIAN_RATIO, MIN_WORST_RATIO, Measure, measures
from mvgan.settings import to_dict
from mvgan.storage.run import RunFolder
from mvgan.validation import check_pairs


REPORT = "report.html"

LONG = 4
"""The longer sample videos have this many times the frames of the training's clips."""

MOVIE_COLUMNS = 4


def build_report(folder: RunFolder) -> str:
    """Measure the gates, draw everything and write `report.html` into the run's folder; returns where it is.

    Stages that have not ended are named in the page, and what they would give is left out. Raises InputError when stage 1
    has no metrics yet or the data is gone, and for a run of single frames.
    """
    check_pairs(folder.run)
    folder.store.write(REPORT, render_report(folder).encode())
    return f"{folder.uri}/{REPORT}"


def render_report(folder: RunFolder) -> str:
    """The page, as HTML."""
    facts = collect(folder)
    found = measures(facts.pairs_history)
    real = real_against_real(facts.shards, folder) if found else None
    run = folder.run
    lead = (
        f"{folder.uri}: {run.resolution} px, interval {_joined(run.interval)}, {run.num_codes} motion codes each way, "
        f"clips of {run.video.num_frames} frames at stride {run.stride}, seed {run.seed}."
    )
    sections = [
        _verdict(facts, real),
        _videos(facts),
        _pairs(facts),
        _over_time(facts),
        _codes(facts),
        _losses(facts, real),
        _data(facts),
        _settings(facts),
    ]
    return markup.document(f"mvgan report: {folder.uri.rstrip('/').split('/')[-1]}", lead, sections)


def _joined(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _verdict(facts: Facts, real: Measure | None) -> markup.Section:
    gates = all_gates(facts, real)
    body = markup.verdict_line(gates)
    if facts.missing:
        body += markup.notice(f"This run has not ended. Stages without a result: {', '.join(facts.missing)}.")
    return markup.Section("verdict", "Verdict", body + markup.gate_table(gates))


def _videos(facts: Facts) -> markup.Section:
    if facts.generator is None:
        return markup.Section("videos", "Videos", markup.notice(f"No videos yet: {', '.join(facts.missing)} not finished."))
    run, generator = facts.folder.run, facts.generator
    frames, rate = run.video.num_frames, f"{generator.fps():.4g} frames a second, the natural speed"
    movies = [
        markup.movie(
            pictures.generated_movie(generator, range(16), frames, MOVIE_COLUMNS),
            f"16 generated videos of {frames} frames in a grid of 4 by 4, playing",
            f"Generated, seeds 0 to 15 row by row, {frames} frames as in training, truncation 1, at {rate}.",
        ),
        markup.movie(
            pictures.real_movie(facts.shards, facts.folder, 16, MOVIE_COLUMNS),
            "Up to 16 real clips in a grid, playing",
            f"Real clips at the same stride ({run.stride}) and length.",
        ),
        markup.movie(
            pictures.generated_movie(generator, range(8), LONG * frames, MOVIE_COLUMNS),
            f"8 generated videos of {LONG * frames} frames in a grid of 4 by 2, playing",
            f"Generated, seeds 0 to 7, {LONG * frames} frames: {LONG} times as long as any clip in training.",
        ),
    ]
    return markup.Section("videos", "Videos", markup.columns(movies) + drift_table(generator))


def _pairs(facts: Facts) -> markup.Section:
    run, shards = facts.folder.run, facts.shards
    spans = _joined(tuple(round(1000 * k / float(np.median(shards.fps))) for k in run.interval))
    parts = [
        markup.image(
            pictures.light(pictures.pairs_picture(shards, run)),
            "Grid of 32 real frame pairs, former and latter frame side by side",
            f"Real pairs as in training: two frames side by side, {_joined(run.interval)} frames ({spans} ms) apart, in either order.",
        )
    ]
    grids = pictures.sample_pictures(facts.folder.home("pairs"), "pairs")
    if grids:
        parts.append(
            markup.image(
                pictures.light(grids[-1].board),
                f"Grid of generated frame pairs after {grids[-1].images} pairs, former and latter frame side by side",
                f"Generated pairs after {grids[-1].images:,} pairs: former and latter frame side by side.",
            )
        )
    return markup.Section("pairs", "Pairs, real and generated", markup.columns(parts))


def _over_time(facts: Facts) -> markup.Section:
    body = ""
    for stage, unit, what in (("pairs", "pairs", "Pairs"), ("video", "clips", "Videos, a row each")):
        grids = pictures.sample_pictures(facts.folder.home(stage), stage)
        if not grids:
            body += markup.notice(f"Stage {stage} has drawn no samples yet.")
            continue
        cells = [
            markup.image(pictures.light(g.board), f"Samples of stage {stage} after {g.images} {unit}", f"{g.images:,} {unit}")
            for g in grids
        ]
        body += f"<h3>{markup.text(what)}, from the same latents</h3>" + markup.columns(cells)
    return markup.Section("over-time", "Samples over training time", body)


def _codes(facts: Facts) -> markup.Section:
    if facts.codes is None or facts.code_tensors is None:
        return markup.Section("codes", "Motion codes", markup.notice("No motion codes yet: stage codes has not finished."))
    codes = facts.codes
    origin = "the mean Grams of" if codes["source"] == "mean" else f"the {'last' if codes['method'] == 'official' else 'first'} of"
    body = markup.paragraph(
        f"Method {codes['method']}, from {origin} {len(codes['samples'])} latents. "
        "Backward codes edit the former frame of a pair and leave the latter alone; forward codes the reverse."
    )
    least = (MIN_MEDIAN_RATIO, MIN_WORST_RATIO)
    body += markup.columns(
        [
            markup.chart(
                charts.spectra_chart(codes),
                "Spectra of the Grams JᵀJ of both frames: thick the mean, thin single latents. Dotted: the number of codes.",
            ),
            *(
                markup.chart(
                    charts.ratios_chart(codes["edits"], direction, least),
                    f"Edit ratio of each {direction} code; lines: asked of the median (dashed) and of the worst (dotted).",
                )
                for direction in ("backward", "forward")
            ),
        ],
        "three",
    )
    body += "".join(markup.notice(f"{method}: {codes[method]['error']}") for method in METHODS if "error" in codes.get(method, {}))
    body += markup.table(_code_rows(facts), "factorization")
    return markup.Section("codes", "Motion codes", body + _code_pictures(facts))


def _code_rows(facts: Facts) -> list[tuple[object, object]]:
    """What codes.json says of the factorization of the mean Grams."""
    assert facts.codes is not None
    rows: list[tuple[object, object]] = []
    for frame in ("former", "latter"):
        about = facts.codes["mean"][frame]
        if "rank" not in about:  # W+, by a method that needs no factorization
            continue
        ended = "converged" if about["converged"] else "did not converge"
        rows.append(
            (
                f"{frame} frame",
                f"rank {about['rank']}, sparse share {about['sparse_share']:.2g}, {ended} after {about['iterations']} iterations",
            )
        )
    for direction in ("backward", "forward"):
        notes = facts.codes.get("nullspace", {}).get(direction)
        if notes is not None:
            rows.append((f"eq. 8, {direction}", f"r_a = {notes['rank_edit']}, r_b = {notes['rank_keep']}"))
        layers = facts.codes[facts.codes["method"]][direction].get("layers")
        if layers is not None:
            rows.append((f"layer of each {direction} code, from 0", _joined(layers)))
    return rows


def _code_pictures(facts: Facts) -> str:
    assert facts.code_tensors is not None
    drawn, troubles = pictures.code_pictures(facts.folder, facts.code_tensors)
    heads = ", ".join(pictures.CODE_COLUMNS)
    body = markup.paragraph(
        f"Each picture: {pictures.CODE_LATENTS} latents, a row each; {heads}. The step along the code is as long as makes the edited frame "
        f"change by a mean squared difference of {pictures.VISIBLE_MSE:g} on [-1, 1], so that it can be seen "
        "(gate (b) measures at 3e-4). Differences are absolute, amplified equally in both frames: black is no change."
    )
    body += "".join(markup.notice(trouble) for trouble in troubles)
    for direction in ("backward", "forward"):
        edited = "former" if direction == "backward" else "latter"
        cells = [
            markup.image(
                pictures.light(shown.board),
                f"{direction} code {shown.number}, which edits the {edited} frame: both frames before and after, and the difference",
                f"{direction.capitalize()} code {shown.number}",
            )
            for shown in drawn
            if shown.direction == direction
        ]
        body += f"<h3>{direction.capitalize()} codes edit the {edited} frame</h3>" + markup.columns(cells, "three")
    return body


PAIR_CHARTS = {
    "Losses": ("g_loss", "d_loss"),
    "Penalties": ("r1", "pl_penalty"),
    "Sign of the discriminator's output": ("real_sign", "fake_sign"),
    "Pairs per second": ("pairs_per_s",),
}
VIDEO_CHARTS = {
    "Losses": ("g_loss", "d_v_loss", "d_r_loss", "d_i_loss"),
    "Motion from frame to frame (mean square)": ("real_motion", "fake_motion"),
    "Fréchet distance of clips (seeded features, not FVD)": ("frechet",),
    "Clips per second": ("clips_per_s",),
}


def _losses(facts: Facts, real: Measure | None) -> markup.Section:
    found = measures(facts.pairs_history)
    body = "<h3>Stage 1: pairs</h3>"
    drawn = []
    if found:
        drawn.append(markup.chart(charts.frechet_chart(found, real), f"Bars: bootstrap error. Averaged generator; {LABEL}."))
    drawn += _history_charts(facts.pairs_history, PAIR_CHARTS, "pairs")
    body += markup.columns(drawn, "three")
    body += "<h3>Stage 3: video</h3>"
    if facts.video_history:
        body += markup.columns(_history_charts(facts.video_history, VIDEO_CHARTS, "clips"), "three")
    else:
        body += markup.notice("Stage video has no metrics yet.")
    return markup.Section("losses", "Losses", body)


def _history_charts(history: list[dict[str, float]], wanted: dict[str, tuple[str, ...]], unit: str) -> list[str]:
    drawn = (charts.history_chart(history, keys, unit, title) for title, keys in wanted.items())
    return [markup.chart(svg) for svg in drawn if svg is not None]


def _data(facts: Facts) -> markup.Section:
    manifest, run = facts.shards.manifest, facts.folder.run
    lengths, fps = manifest["lengths"], facts.shards.fps
    rate = f"{fps.min():.4g}" if fps.min() == fps.max() else f"{fps.min():.4g} to {fps.max():.4g}, median {np.median(fps):.4g}"
    rows: list[tuple[object, object]] = [
        ("Videos", f"{manifest['num_videos']:,}"),
        ("Frames", f"{manifest['num_frames']:,}"),
        ("Longest, frames", lengths["max"]),
        ("Mean length, frames", f"{lengths['mean']:.2f}"),
        ("Variance of the length", f"{lengths['variance']:.2f}"),
        ("Shortest, frames", lengths["min"]),
        ("Frames a second", rate),
        ("Rejected sources", len(manifest["rejected"])),
        ("Shard set", facts.shards.uri),
    ]
    body = markup.table(rows, "the statistics of the paper's Table VII, and more")
    body += "".join(markup.paragraph(line, "soft") for line in describe({**manifest, "rejected": []}, run.interval)[2:])
    if manifest["rejected"]:
        body += markup.details(
            "Rejected sources", markup.table([(item["source"], item["reason"]) for item in manifest["rejected"]], "source and reason")
        )
    return markup.Section("data", "Data", body)


def _settings(facts: Facts) -> markup.Section:
    config, made = to_dict(facts.folder.run), facts.shards.manifest["settings"]
    # What the shards were made with: a run on a shard set of its own has not shaped it.
    config["ingest"] = {name: made.get(name, value) for name, value in config["ingest"].items()}
    body = markup.config_tables(config)
    body += markup.details("versions", markup.table(list(facts.versions.items()), "versions that started the run"))
    return markup.Section("settings", "Resolved settings", body)
