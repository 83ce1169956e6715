"""The page: one HTML file that needs no network, for phone and desktop, light and dark."""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mvgan import __version__
from mvgan.report.gates import Gate


STYLE = """
:root{color-scheme:light dark;--ink:#1d2127;--soft:#5c6570;--page:#fbfbfa;--card:#fff;--rule:#e2e4e7;--accent:#2458c5;
--pass:#17703a;--fail:#b3261e;--open:#7a5b00;
--line-1:#2f6fdb;--line-2:#d9622b;--line-3:#2a9460;--line-4:#9a4fc4;--line-5:#b58900;--line-6:#cc4b7c}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7ea;--soft:#9aa3ad;--page:#14161a;--card:#1c1f24;--rule:#2f343b;--accent:#8ab0ff;
--pass:#6fd394;--fail:#ff8f86;--open:#e8c25a;
--line-1:#7aa7ff;--line-2:#ff9a66;--line-3:#63cf9b;--line-4:#cf96f0;--line-5:#e0bd55;--line-6:#f58bb2}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:68rem;padding:1.5rem 1rem 4rem;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.75rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.5rem 0 .5rem}
p{max-width:46rem;margin:.4rem 0 .8rem}
.soft,figcaption{color:var(--soft);font-size:.875rem}
.notice{border-left:3px solid var(--open);padding:.1rem .8rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.9rem;margin:1rem 0}
a{color:var(--accent)}
figure{margin:0 0 1rem}
img,video,figure svg{display:block;width:100%;height:auto}
img,video{border-radius:4px;background:var(--rule)}
img.pixels{image-rendering:pixelated}
figcaption{margin-top:.35rem}
.two,.three{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));align-items:start}
.three{grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}
.chart{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:.5rem}
table{border-collapse:collapse;width:100%;font-size:.925rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.5rem .75rem .5rem 0;border-bottom:1px solid var(--rule);overflow-wrap:anywhere}
thead th{color:var(--soft);font-weight:500}
tbody th{font-weight:600}
.plain{width:auto;min-width:50%}
caption{text-align:left}
.wide{overflow-x:auto}
.wide td,.wide th{overflow-wrap:normal;white-space:nowrap;padding-right:1.25rem}
table+.two,table+.three{margin-top:1.25rem}
.mark{font-weight:700;white-space:nowrap}
.pass{color:var(--pass)}.fail{color:var(--fail)}.open{color:var(--open)}
details{margin:.5rem 0}
summary{cursor:pointer}
code{font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media(max-width:44rem){
.gates thead{position:absolute;clip-path:inset(50%)}
.gates tr{display:block;border-bottom:1px solid var(--rule);padding:.6rem 0}
.gates th,.gates td{display:block;border:0;padding:.1rem 0}
.gates td[data-label]::before{content:attr(data-label) ": ";color:var(--soft)}
}
"""

MARKS = {"pass": "✓ passed", "fail": "✗ failed", "open": "– open"}


@dataclass(frozen=True)
class Section:
    """A part of the page; `body` is HTML, everything else is text."""

    anchor: str
    title: str
    body: str


def text(value: object) -> str:
    """`value` as text within HTML."""
    return html.escape(str(value), quote=True)


def document(title: str, lead: str, sections: Sequence[Section], style: str = "", script: str = "") -> str:
    """The whole document; `style` (CSS) and `script` (JavaScript, run at its end) are those of this page alone."""
    links = "".join(f'<a href="#{text(section.anchor)}">{text(section.title)}</a>' for section in sections)
    parts = "".join(f'<section id="{text(s.anchor)}"><h2>{text(s.title)}</h2>{s.body}</section>' for s in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(_policy(script))}">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{STYLE}{style}</style></head>'
        f"<body><header><h1>{text(title)}</h1>"
        f'<p class="soft">{text(lead)}</p><nav aria-label="Sections">{links}</nav></header><main>{parts}</main>'
        f'<footer><p class="soft">Made by mvgan {text(__version__)}.</p></footer>'
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def _policy(script: str) -> str:
    """The Content-Security-Policy: the page holds all that it shows, and the browser asks no network for more.

    No script runs but `script` itself, which is named by its hash.
    """
    rules = ["default-src 'none'", "img-src data:", "media-src data:", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'"]
    if script:
        rules.append(f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
    return "; ".join(rules)


def paragraph(words: str, style: str = "") -> str:
    """A paragraph of text."""
    return f'<p class="{style}">{text(words)}</p>' if style else f"<p>{text(words)}</p>"


def notice(words: str) -> str:
    """A paragraph that says what is not as it should be."""
    return paragraph(words, "notice")


def image(data: bytes, alt: str, caption: str = "") -> str:
    """A PNG or JPEG with what it shows in words."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<figure><img class="pixels" src="{source}" alt="{text(alt)}">{_caption(caption)}</figure>'


def movie(mp4: bytes, alt: str, caption: str = "") -> str:
    """An MP4 that plays at once, muted, again and again."""
    source = f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"
    player = f'<video src="{source}" autoplay loop muted playsinline controls aria-label="{text(alt)}"></video>'
    return f"<figure>{player}{_caption(caption)}</figure>"


def chart(svg: str, caption: str = "") -> str:
    """A chart of `charts`, which has its words in it."""
    return f'<figure class="chart">{svg}{_caption(caption)}</figure>'


def _caption(caption: str) -> str:
    return f"<figcaption>{text(caption)}</figcaption>" if caption else ""


def columns(items: Iterable[str], style: str = "two") -> str:
    """Pieces of HTML side by side where there is room."""
    return f'<div class="{style}">{"".join(items)}</div>'


def gate_table(gates: Sequence[Gate]) -> str:
    """The verdict: a row a gate."""
    rows = "".join(
        f'<tr><td class="mark {gate.outcome}">{MARKS[gate.outcome]}</td><th scope="row">{text(gate.name)}</th>'
        f'<td data-label="Measured">{text(gate.value)}</td><td data-label="Asked">{text(gate.bound)}</td>'
        f'<td class="soft">{text(gate.words)}</td></tr>'
        for gate in gates
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Verdict", "Gate", "Measured", "Asked", "What it says"))
    return f'<table class="gates"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def verdict_line(gates: Sequence[Gate]) -> str:
    """How many gates passed, in a sentence."""
    count = {outcome: sum(gate.outcome == outcome for gate in gates) for outcome in MARKS}
    words = f"{count['pass']} of {len(gates)} gates passed"
    if count["fail"]:
        words += f", {count['fail']} failed"
    if count["open"]:
        words += f", {count['open']} open"
    return paragraph(words + ".")


def table(rows: Sequence[tuple[object, object]], caption: str) -> str:
    """Names and values."""
    cells = "".join(f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in rows)
    return f'<table class="plain"><caption class="soft">{text(caption)}</caption><tbody>{cells}</tbody></table>'


def grid_table(heads: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> str:
    """A table with a row of heads, which scrolls where it is wider than the page."""
    top = "".join(f'<th scope="col">{text(head)}</th>' for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table><caption class="soft">{text(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def config_tables(config: dict[str, Any]) -> str:
    """The resolved settings, a table for each group of them."""
    groups: dict[str, list[tuple[object, object]]] = {"run": []}
    for name, value in config.items():
        if isinstance(value, dict):
            groups[name] = [(key, json.dumps(entry)) for key, entry in value.items()]
        else:
            groups["run"].append((name, json.dumps(value)))
    return "".join(
        f"<details><summary>{text(name)}</summary>{table(rows, f'settings of {name}')}</details>" for name, rows in groups.items()
    )


def details(summary: str, body: str) -> str:
    """HTML that opens on a click."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"
