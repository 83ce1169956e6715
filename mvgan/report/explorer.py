"""The motion explorer: a page on which one moves along each motion code, and plays contents with motions in step."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from mvgan.motion.factorize import DIRECTIONS, FRAMES
from mvgan.nets.space import layers_of
from mvgan.report import markup
from mvgan.report.pictures import AMPLIFY
from mvgan.report.sprites import MAX_PAGE_BYTES, Plan, Sheet, pack
from mvgan.sample import Generator


EXPLORER = "explorer.html"


def explorer_html(generator: Generator, plan: Plan, sheets: Sequence[Sheet], mp4: bytes, place: str) -> str:
    """The page of the run at `place`, from the sheets of `draw_sheets`, in their order, and the video of `movie_of`."""
    run = generator.run
    lead = (
        f"{place}: {run.resolution} px, interval {', '.join(map(str, run.interval))}, {run.num_codes} motion codes each way in "
        f"{run.codes.space.upper()}, truncation ψ = {plan.truncation:g}."
    )
    sections = [
        markup.Section("codes", "Along a motion code", _codes(generator, plan, sheets)),
        markup.Section("table", "Content × motion", _table(generator, plan, mp4)),
        markup.Section("terms", "What is shown", _terms(generator, plan)),
    ]
    name = place.rstrip("/").split("/")[-1]
    page = markup.document(f"mvgan motion explorer: {name}", lead, sections, _asset("explorer.css"), _asset("explorer.js"))
    assert len(page.encode()) <= MAX_PAGE_BYTES, "the plan leaves room for words"
    return page


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _codes(generator: Generator, plan: Plan, sheets: Sequence[Sheet]) -> str:
    body = (
        "<p>Each code is a direction <i>n</i> in the latent space. Move the slider: every pair below is G<sub>S</sub>(ω + α<i>n</i>), "
        "of which a backward code edits the former frame and a forward code the latter. The other frame should stand still, "
        "and its change stay black.</p>"
    )
    body += f"<noscript>{markup.notice('The slider needs JavaScript. The video below plays without it.')}</noscript>"
    body += _bar(plan) + "".join(_tiles(direction, plan) for direction in DIRECTIONS) + _pairs(plan)
    return f'{body}<script type="application/json" id="explorer-data">{_data(generator, plan, sheets)}</script>'


def _bar(plan: Plan) -> str:
    last = len(plan.alphas) - 1
    return (
        '<div class="bar"><label for="alpha">α</label>'
        f'<input type="range" id="alpha" min="0" max="{last}" step="1" value="{last - last // 4}" list="alphas">'
        f'<datalist id="alphas"><option value="{last // 2}" label="0"></option></datalist>'
        '<button type="button" id="zero">0</button><button type="button" id="swing" aria-pressed="false">Swing</button>'
        '<output id="alpha-words" for="alpha"></output></div>'
    )


def _tiles(direction: str, plan: Plan) -> str:
    """Buttons that choose a code, each with the frame that it edits."""
    side = DIRECTIONS[direction]
    tiles = "".join(
        f'<label class="tile"><input type="radio" name="code" value="{code}" data-side="{side}"{" checked" * (side == code == 0)}>'
        f'<canvas width="{plan.size}" height="{plan.size}" aria-hidden="true"></canvas>'
        f'<span><span class="hidden">{direction} code </span>{code + 1}</span></label>'
        for code in range(plan.num_codes)
    )
    return (
        f'<fieldset class="tiles"><legend>{direction.capitalize()} codes ω<sub>{direction[0]}</sub> edit the {FRAMES[side]} frame '
        f'<span class="soft">(shown of seed {plan.seeds[0]})</span></legend><div>{tiles}</div></fieldset>'
    )


def _pairs(plan: Plan) -> str:
    """A row of pictures per seed, which the script draws."""
    heads = (*(f"{frame} frame" for frame in FRAMES), *(f"its change × {AMPLIFY:g}" for _ in FRAMES))
    order = (0, 2, 1, 3)  # each frame beside its change
    number = '<span class="change"></span>'
    head = "".join(f'<th scope="col" data-side="{row % 2}">{markup.text(heads[row])}</th>' for row in order)
    rows = "".join(
        f'<tr><th scope="row">{seed}</th>'
        + "".join(
            f'<td data-side="{row % 2}"><canvas role="img" data-row="{row}" width="{plan.size}" height="{plan.size}"></canvas>'
            f"{number if row > 1 else ''}</td>"
            for row in order
        )
        + "</tr>"
        for seed in plan.seeds
    )
    return (
        '<h3 id="shown" aria-live="polite">Backward code 1</h3><table class="pairs" aria-labelledby="shown">'
        f'<thead><tr><th scope="col">seed</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="soft">Differences to α = 0 are absolute, averaged over colours and amplified by {AMPLIFY:g}, the same in both frames: '
        "black is no change. Numbers: mean squared difference on [−1, 1] × 1000.</p>"
    )


def _data(generator: Generator, plan: Plan, sheets: Sequence[Sheet]) -> str:
    """What the script draws from, as JSON; sheets go by seed, direction and code."""
    files, size = pack(sheets)
    lengths = generator.step_lengths.tolist()
    codes = generator.codes
    in_layers = [layers_of(side, generator.run.network.w_dim).tolist() for side in codes] if generator.run.codes.space == "w+" else None
    data = {
        "size": size,
        "seeds": plan.seeds,
        "numCodes": plan.num_codes,
        "alphas": plan.alphas,
        "stepLengths": lengths,
        "layers": in_layers,
        "changes": [[[round(1000 * float(value), 3) for value in frame] for frame in sheet.changes] for sheet in sheets],
        "sheets": [base64.b64encode(file).decode() for file in files],
    }
    return json.dumps(data, separators=(",", ":"))


def _table(generator: Generator, plan: Plan, mp4: bytes) -> str:
    fps = generator.fps()
    rows, columns = len(plan.seeds), len(plan.motions)
    words = f"{rows * columns} generated videos of {plan.num_frames} frames: a row for each content, a column for each motion"
    source = f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"
    video = f'<video src="{source}" loop muted playsinline controls data-fps="{fps}" data-frames="{plan.num_frames}"'
    tops = "".join(_picker("column", number, f"motion {seed} with every content", seed) for number, seed in enumerate(plan.motions))
    lefts = "".join(_picker("row", number, f"content {seed} with every motion", seed) for number, seed in enumerate(plan.seeds))
    return (
        "<p>Along a <b>row</b> the content is the same (seed of z, and so of ω<sub>0</sub> and of the noise maps) and the motion "
        "another (seed of the LSTM’s noise); down a <b>column</b> the motion noise is the same and the content another. "
        "Choose a number to see its row or column alone.</p>"
        f'<div class="board" data-rows="{rows}" data-columns="{columns}">'
        f'<span class="axis across">motion</span><div class="tops">{tops}</div>'
        f'<span class="axis down">content</span><div class="lefts">{lefts}</div>'
        f'<div class="screen">{video} aria-label="{words}"></video><div class="spot" hidden></div></div></div>'
        '<div class="bar player" hidden><button type="button" id="play">Play</button>'
        f'<label for="scrub" class="hidden">Frame</label>'
        f'<input type="range" id="scrub" min="0" max="{plan.num_frames - 1}" step="1" value="0">'
        f'<output id="scrub-words" for="scrub"></output></div><p class="soft">{words}, at {fps:.4g} frames a second, the natural speed.</p>'
    )


def _picker(kind: str, number: int, words: str, seed: int) -> str:
    return f'<button type="button" data-{kind}="{number}" aria-pressed="false" aria-label="{words}">{seed}</button>'


def _terms(generator: Generator, plan: Plan) -> str:
    run, most = generator.run, plan.alphas[-1]
    shown = f"the first {plan.num_codes}" if plan.num_codes < run.num_codes else f"all {run.num_codes}"
    rows = [
        ("Pair", "MotionStyleGAN generates two frames at once, [x̃<sub>t</sub>, x̃<sub>t±k</sub>] = G<sub>S</sub>(ω): the same content, "
         "k frames apart. Here the former is the first and the latter the second of them."),
        ("Motion code", "Eq. 2 of the paper: [x̃<sub>t</sub>, x̃<sub>t±k</sub><sup>edit</sup>] = G<sub>S</sub>(ω + α ω<sub>f</sub>) and "
         f"[x̃<sub>t</sub><sup>edit</sup>, x̃<sub>t±k</sub>] = G<sub>S</sub>(ω + α ω<sub>b</sub>). {shown.capitalize()} of each "
         f"direction are shown, of method {run.codes.method}, numbered as in report.html."),
        ("α, the editing strength", "In steps: the longest that the latent code generator takes along the code in one frame (eq. 10 "
         f"with a coefficient of 1). The slider goes from −{most:g} to +{most:g} steps; clips in training have {run.video.num_frames} "
         "frames."),
        ("Separation", "A good code changes its own frame alone. Where both changes light up, the code moves both frames."),
        ("Content and motion", "The content code ω<sub>0</sub> = G<sub>M</sub>(z) starts a video; the LSTM, fed with noise, walks along "
         "backward and forward codes in turn (eq. 9 and 10), and the edited frames are the video (eq. 11)."),
        ("Seeds", "As of <code>python -m jobs.generate --seeds … --motion-seeds …</code>: the same videos. Where both seeds are "
         "equal, it is the video of that seed."),
        ("Truncation ψ", f"{plan.truncation:g}: 1 keeps all variety of content, lower values draw ω towards the mean."),
    ]  # fmt: skip
    if run.codes.space == "w+":
        rows.append(("W+", "Codes of this run are of W+: each acts in one layer of the synthesis network, named in its heading, from 0."))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{words}</dd>" for name, words in rows) + "</dl>"
