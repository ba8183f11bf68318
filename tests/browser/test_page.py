"""The page of a turn in a real browser: what a reader sees, finds and opens, and that text stays text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm.events import TurnStarted
from rlm.trace.page import page as page_of
from tests.ui import ALL_HOSTILE

from . import Browser, Page
from .samples import ANSWER, MARKUP, QUESTION, Recorder, finished, large_turn, reply, rich_turn, spoiled, step

COLOUR = """(selector, name) => getComputedStyle(document.querySelector(selector))[name]"""
CURRENT = "[...CSS.highlights.get('current')].map(String).join()"
IN_SIGHT = """(() => {
  const box = [...CSS.highlights.get('current')][0].getBoundingClientRect();
  const top = document.querySelector('header').offsetHeight;
  return box.height > 0 && box.top > top && box.bottom < innerHeight;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rich"), rich_turn())


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "page.html"
    path.write_text(page_of(rows), encoding="utf-8")
    return path


def open_all(page: Page) -> None:
    """Open all that can be opened, also what is only there once something else is open."""
    while page.js("document.querySelectorAll('details:not([open])').length"):
        page.js(
            "document.querySelectorAll('details:not([open]) > summary').forEach((found) => found.click())"
        )
        page.js("new Promise((done) => setTimeout(done, 20))")


def quiet(page: Page, path: Path) -> None:
    """Nothing was complained of, and nothing asked for but the page itself."""
    assert page.complaints == []
    assert page.requests == [path.as_uri()]


def search(page: Page, query: str) -> None:
    page.js("document.querySelector('#query').select()")
    page.press("/")
    page.js("document.querySelector('#query').select()")
    page.type(query)


def test_a_reader_sees_the_whole_turn(browser: Browser, rich: Path) -> None:
    with browser.open(rich) as page:
        top = page.text("#turn")
        assert QUESTION in top and ANSWER.strip() in top
        assert "answered 38s · 4 steps · 12 sub-calls · 3 child RLMs · 360k in / 6.7k out" in top
        assert "openai/gpt-5-mini\t14\t347k\t5.7k\t0\t$0.03" in top
        before = page.js("document.querySelectorAll('details.call').length")
        open_all(page)
        steps = page.text("#steps")
        quiet(page, rich)

    assert before == 0
    told = (
        "Step 1/30",
        "A regex settles it.",
        'LINE = re.compile(r"^',
        "Out [4] · ok · 0.8s",
        "/cart [118, 121, 839, 842, 840, 846]",
        "KeyError: no document 'tickets.md'",
        "'app.log' has grown on disk since it was loaded.",
        "1 failed 1 cached 2 retried 1 cut openai/gpt-5-mini · 13s",
        "[5] 2\N{MULTIPLICATION SIGN} retried Which tickets in part 5",
        "Timeout: no reply within 12 s.",
        "Child RLM 2 · answered · 52,000 characters of context · openai/gpt-5-mini",
        "14: the reason of 3",
        "NoAnswer: No answer within 1 step.",
        "Out [7] · final · 0.1s",
    )
    at = [steps.find(text) for text in told]
    assert at == sorted(at) and at[0] >= 0, dict(zip(told, at, strict=False))


def test_search_finds_what_is_closed_and_filters_leave_what_they_name(browser: Browser, rich: Path) -> None:
    with browser.open(rich) as page:
        search(page, "THE REASON OF")
        page.wait("document.querySelector('#hits').innerText === '3 hits'")
        for number in (1, 2, 3, 1):
            page.press("Enter")
            assert page.text("#hits") == f"{number} of 3"
            assert page.js(CURRENT) == "the reason of" and page.js(IN_SIGHT)
        page.press("Enter", shift=True)
        page.click("#previous")
        assert page.text("#hits") == "2 of 3"

        page.click("#filters button")
        assert page.js("document.querySelector('#filters button').getAttribute('aria-pressed')") == "true"
        names = page.js(
            "[...document.querySelectorAll('.step > summary .name')].map((name) => name.innerText)"
        )
        calls = page.js(
            "[...document.querySelectorAll('details.call > summary .name')].map((name) => name.innerText)"
        )
        assert names == ["Step 2/30", "Step 3/30"]
        assert calls == ["[11]", "[2]"]
        search(page, "a[b(c*.+?^$")
        page.wait("document.querySelector('#hits').innerText === '0 hits'")
        assert page.js("document.querySelector('#next').disabled")
        quiet(page, rich)


BAR = """(kind, mark) => {
  const bar = timeline.bars.find(({ node }) => node.kind === kind && (!mark || node.marks.has(mark)));
  const canvas = document.getElementById('canvas');
  const group = timeline.groups.find((one) => one.bars.includes(bar));
  const [x, y, w, h] = timeline.box(canvas.clientWidth, bar, group);
  const copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, -(x + w / 2) * devicePixelRatio, -(y + 1) * devicePixelRatio);
  const pixel = copy.getImageData(0, 0, 1, 1).data;
  const box = canvas.getBoundingClientRect();
  const colour = `rgb(${[...pixel].slice(0, 3).join(', ')})`;
  return { x: box.left + x + w / 2, y: box.top + y + h / 2, colour };
}"""


def test_the_time_line_shows_what_ran_and_goes_there(browser: Browser, rich: Path) -> None:
    with browser.open(rich) as page:
        groups = page.js("timeline.groups.map(({ name, bars, lanes }) => [name, bars.length, lanes])")
        assert groups == [
            ["root model", 4, 1],
            ["cells", 4, 1],
            ["sub-calls", 12, 7],
            ["children, depth 1", 3, 3],
        ]
        for kind, mark, swatch in (("step", "", "root"), ("call", "failed", "failed"), ("cell", "", "cell")):
            drawn = page.js(f"({BAR})({kind!r}, {mark!r}).colour")
            assert drawn == page.js(f"({COLOUR})('.legend .{swatch}', 'backgroundColor')")

        bar = page.js(f"({BAR})('call', 'failed')")
        page.click_at(bar["x"], bar["y"])
        assert page.text("#picked").startswith("Sub-call 11 of batch 1 · failed, retried · 9.5s to 22s (12s)")
        page.click("#show")
        assert "[11]" in page.js("document.activeElement.innerText")
        assert page.js("document.activeElement.parentElement.open")

        page.js("document.querySelector('#canvas').focus()")
        page.press("ArrowLeft")
        assert page.text("#picked").startswith("Sub-call 5 of batch 1")
        page.press("+")
        assert page.js("timeline.view[1] - timeline.view[0]") == 19
        page.click("#zoom-all")
        assert page.js("timeline.view") == [0, 38]
        page.press("ArrowRight")
        quiet(page, rich)


def test_keys_alone_are_enough(browser: Browser, rich: Path) -> None:
    with browser.open(rich) as page:
        reached = []
        for _ in range(14):
            page.press("Tab")
            reached.append(
                page.js("document.activeElement.id || document.activeElement.innerText.slice(0, 6)")
            )
        assert reached == [
            *(
                "query",
                "failed",
                "cached",
                "retrie",
                "cut 1",
                "theme",
                "zoom-out",
                "zoom-in",
                "zoom-all",
                "canvas",
            ),
            *("Step 1", "Step 2", "Step 3", "12 sub"),
        ]
        assert page.js(f"({COLOUR})(':focus-visible', 'outlineStyle')") == "solid"
        page.press("Enter")
        page.wait("document.querySelectorAll('details.call').length === 12")
        quiet(page, rich)


def test_light_dark_and_paper(browser: Browser, rich: Path) -> None:
    with browser.open(rich, dark=True) as page:
        ground = f"({COLOUR})('body', 'backgroundColor')"
        text = f"({COLOUR})('body', 'color')"
        dark = page.js(ground), page.js(text)
        page.prefer("light")
        page.wait(f"{ground} !== {dark[0]!r}")
        light = page.js(ground), page.js(text)
        assert light == ("rgb(255, 255, 255)", "rgb(28, 33, 40)")
        assert dark == ("rgb(20, 23, 28)", "rgb(227, 231, 237)")
        page.click("#theme")
        assert (page.js(ground), page.js(text)) == dark
        page.js("dispatchEvent(new Event('beforeprint'))")
        page.prefer("light", media="print")
        assert (page.js(ground), page.js(text)) == light
        assert page.js(f"({COLOUR})('header', 'display')") == "none"
        page.prefer("light")
        page.js("dispatchEvent(new Event('afterprint'))")
        assert (page.js(ground), page.js(text)) == dark
        quiet(page, rich)


def long_turn(text: str) -> list[dict[str, Any]]:
    recorder = Recorder()
    recorder.add(0, TurnStarted(turn=3, question=text), step(1))
    recorder.add(1, reply(1, text, text, reasoning=text), finished(1, answer=text))
    return recorder.rows


@pytest.mark.parametrize("name", ["rich", "hostile", "long"])
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, tmp_path: Path, name: str) -> None:
    rows = {
        "rich": rich_turn(),
        "hostile": spoiled(rich_turn(), f"{MARKUP}\n{ALL_HOSTILE}"),
        "long": long_turn("x" * 200_000),
    }[name]
    path = written(tmp_path, rows)
    with browser.open(path, width=360, height=780) as page:
        open_all(page)
        assert page.js("document.documentElement.scrollWidth") == 360
        outside = "(found) => found.getBoundingClientRect().right > 360.5"
        assert (
            page.js(f"[...document.querySelectorAll('body *')].filter({outside}).map((one) => one.outerHTML)")
            == []
        )
        small = "(found) => found.offsetParent && Math.min(found.offsetWidth, found.offsetHeight) < 24"
        assert page.js(f"[...document.querySelectorAll('button, summary')].filter({small}).length") == 0
        quiet(page, path)


def test_hostile_text_stays_text(browser: Browser, tmp_path: Path) -> None:
    text = f"{MARKUP}\n{ALL_HOSTILE}"
    path = written(tmp_path, spoiled(rich_turn(), text))
    with browser.open(path) as page:
        open_all(page)
        search(page, "onerror=alert")
        page.wait("document.querySelector('#hits').innerText !== ''")
        page.press("Enter")
        assert page.js(CURRENT) == "onerror=alert"
        ours = "html head meta title style script body header main section footer noscript".split()
        kinds = page.js("[...new Set([...document.querySelectorAll('*')].map((one) => one.localName))]")
        assert not {"img", "iframe", "a", "object", "link", "svg", "form"} & set(kinds)
        assert set(ours) <= set(kinds)
        assert page.js("document.scripts.length") == 2
        shown = page.text("main")
        quiet(page, path)
    assert MARKUP in shown and r"\x1b]52;c;ZXZpbA==\x07" in shown and r"\u202eevil\u202c" in shown


def test_ten_thousand_calls_are_made_when_they_are_looked_at(browser: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, large_turn())
    elements = "document.querySelectorAll('*').length"
    with browser.open(path) as page:
        assert page.js(elements) < 300
        assert "10,000 sub-calls · " in page.text("#turn")
        page.click(".batch > summary")
        page.wait("document.querySelectorAll('.group').length === 100")
        search(page, "Review 7345:")
        page.wait("document.querySelector('#hits').innerText === '1 hit'")
        page.press("Enter")
        assert page.js(CURRENT) == "Review 7345:" and page.js(IN_SIGHT)
        assert page.js("document.querySelectorAll('details.call').length") == 100
        assert page.js(elements) < 3_000
        page.click("#filters button")
        calls = page.js(
            "[...document.querySelectorAll('details.call > summary .name')].map((name) => name.innerText)"
        )
        assert calls == [f"[{number}]" for number in range(499, 10_000, 500)]
        assert page.js("timeline.bars.length") == 10_002
        quiet(page, path)


def test_a_long_text_is_shown_by_its_head(browser: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, long_turn("".join(f"{number}\n" for number in range(50_000)) + "needle"))
    with browser.open(path) as page:
        assert "29\n" in page.text(".answer") and "\n30" not in page.text(".answer")
        search(page, "needle")
        page.wait("document.querySelector('#hits').innerText === '5 hits'")
        page.click("#previous")
        assert page.js(CURRENT) == "needle" and page.js(IN_SIGHT)
        page.click(".answer .more")
        assert page.text(".answer").endswith("49999\nneedle")
        quiet(page, path)
