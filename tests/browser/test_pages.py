"""Every page in real Chromium: it needs no network, complains of nothing, plays, and fits phones and both themes."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mvgan.report import markup
from mvgan.report.sprites import MAX_PAGE_BYTES
from tests.browser.browser import Browser


NAMES = ("report", "explorer", "dataset", "table", "frames", "sweep")
each_page = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """Where a real server on this machine listens, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing to be printed."""

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}", asked
    listener.shutdown()
    listener.server_close()


@each_page
def test_no_request_outside_and_no_complaint(browser: Browser, pages: dict[str, Path], name: str) -> None:
    """By the browser's own network log and console."""
    browser.open(pages[name])
    assert browser.ask("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.ask("document.querySelector('meta[http-equiv=Content-Security-Policy]') !== null")
    assert browser.outside() == []
    assert browser.complaints() == []


def test_a_page_that_asks_outside_is_seen(browser: Browser, server: tuple[str, list[str]], tmp_path: Path) -> None:
    """The control of the test above: a picture from a server, another file, and an error in the console."""
    uri, asked = server
    (tmp_path / "x.css").write_text("")
    page = tmp_path / "page.html"
    page.write_text(f'<img src="{uri}/control.png"><link rel="stylesheet" href="x.css"><script>console.error("lost")</script>')
    browser.open(page)
    assert {f"{uri}/control.png", (tmp_path / "x.css").as_uri()} <= set(browser.outside())
    assert "/control.png" in asked
    assert any("lost" in words for words in browser.complaints())


def test_the_policy_keeps_a_page_from_the_network(browser: Browser, server: tuple[str, list[str]], tmp_path: Path) -> None:
    """Against the server's own list: whatever stood in a page of ours, by mistake or by a name of somebody else's, nothing is asked."""
    uri, asked = server
    body = (
        f'<img src="{uri}/a.png"><video src="{uri}/b.mp4" autoplay></video><iframe src="{uri}/c"></iframe>'
        f'<script>fetch("{uri}/d"); document.title = "taken"</script><style>body{{background:url({uri}/e)}}</style>'
    )
    page = tmp_path / "page.html"
    script = f'document.body.dataset.ran = "1"; fetch("{uri}/f").catch(() => (document.body.dataset.refused = "1"))'
    page.write_text(markup.document("t", "l", [markup.Section("a", "A", body)], script=script))
    browser.open(page)
    browser.until("document.body.dataset.refused === '1'")
    assert browser.ask("[document.body.dataset.ran, document.title]") == ["1", "t"]  # the page's own script alone
    assert not [path for path in asked if path != "/control.png"]
    assert len([words for words in browser.complaints() if "Content Security Policy" in words]) >= 5


@each_page
def test_themes(browser: Browser, pages: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Screenshots, and the contrast of text as WCAG 2 defines it: at least 4.5 for all text; that of charts has the colour of text."""
    browser.open(pages[name])
    means = {}
    for scheme in ("light", "dark"):
        browser.theme(scheme)
        shot = browser.screenshot()
        means[scheme] = float(np.median(shot))
        for selector in ("body", ".soft", "a", "h2"):
            assert contrast(browser, selector) >= 4.5, (scheme, selector)
        words = "[...document.querySelectorAll('svg text')].filter((text) => getComputedStyle(text).fill !== getComputedStyle(text).color)"
        assert browser.ask(f"{words}.map((text) => text.textContent)") == [], scheme
    assert means["light"] > 200 and means["dark"] < 60


def contrast(browser: Browser, selector: str) -> float:
    """Of the text of the first such element to the page (WCAG 2, contrast ratio)."""
    colours = browser.ask(
        f"[getComputedStyle(document.querySelector('{selector}')).color, getComputedStyle(document.body).backgroundColor]"
        ".map((colour) => colour.match(/[\\d.]+/g).map(Number))"
    )
    linear = [[c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour[:3]] for colour in colours]
    dark, light = sorted(float(np.dot([0.2126, 0.7152, 0.0722], colour)) for colour in linear)
    return (light + 0.05) / (dark + 0.05)


@each_page
def test_a_phone_needs_no_scrolling_aside(browser: Browser, pages: dict[str, Path], name: str) -> None:
    """360 px wide, after everything that opens is open."""
    browser.screen(360, 740, mobile=True)
    browser.open(pages[name])
    browser.ask("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert browser.ask("[innerWidth, document.scrollingElement.scrollWidth]") == [360, 360]
    assert browser.screenshot().shape == (3, 740, 360)


def test_a_page_too_wide_is_seen(browser: Browser, tmp_path: Path) -> None:
    """The control of the test above."""
    browser.screen(360, 740, mobile=True)
    page = tmp_path / "page.html"
    page.write_text(markup.document("t", "l", [markup.Section("a", "A", '<div style="width:500px;height:9px;background:red"></div>')]))
    browser.open(page)
    assert browser.ask("document.scrollingElement.scrollWidth") > 360


@each_page
def test_weight(pages: dict[str, Path], name: str) -> None:
    assert pages[name].stat().st_size < MAX_PAGE_BYTES


@pytest.mark.parametrize(("name", "count"), [("report", 3), ("explorer", 1), ("table", 5), ("sweep", 5)])
def test_videos_play(browser: Browser, pages: dict[str, Path], name: str, count: int) -> None:
    """Without a click: time goes on in each."""
    browser.open(pages[name])
    assert browser.ask("document.querySelectorAll('video').length") == count
    for number in range(count):
        video = f"document.querySelectorAll('video')[{number}]"
        browser.ask(f"{video}.scrollIntoView()")
        browser.until(f"!{video}.paused && {video}.currentTime > 0 && {video}.videoWidth > 0")
        browser.ask(f"({video}.dataset.seen = {video}.currentTime)")
        browser.until(f"{video}.currentTime !== Number({video}.dataset.seen)")
