"""report.html in a real browser, at a desk and on a phone: tables sort, filter and search, and stay readable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_kit import CHROMIUM, SIZES, Browser
from measurements.made_up_run import make_run

import crun_batch
from crun_batch.reporting.read import make_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
PICTURES = os.environ.get("PAGE_PICTURES")
"""A folder for what was seen, to look at."""
TABLES = "[...document.querySelectorAll('.scroll table')]"
SORTED = f"{TABLES}.find((one) => one.querySelector('.sort') && one.tBodies[0].rows.length > 3)"
ROWS = "[...document.querySelectorAll('section > [data-row]')]"
SEARCH = "document.querySelector('input[aria-label=\"search the rows\"]')"
CHOICE = "document.querySelector('select[aria-label=\"which rows\"]')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("made") / "run"
    make_run(run, 300)
    return make_report([run]).path


@pytest.fixture(params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Browser:
    browser.size(request.param)
    browser.events.clear()
    browser.go(report.as_uri())
    browser.wait(f"document.readyState === 'complete' && {SEARCH} !== null")
    if PICTURES:
        browser.picture(Path(PICTURES) / f"report-{request.param}.png")
    return browser


def test_a_click_on_a_title_sorts_by_value_and_a_third_gives_the_first_order_again(opened: Browser) -> None:
    """Numbers by their size and not by their digits; sums stay at the end."""
    body = f"[...{SORTED}.tBodies[0].rows].filter((row) => row.className !== 'sum')"
    names = f"{body}.map((row) => row.cells[0].textContent)"
    first = opened.run(names)
    seen = []
    for _ in range(3):
        opened.run(f"{SORTED}.querySelector('.sort').click()")
        seen.append(opened.run(names))
    assert sorted(first, key=str.casefold) == seen[0]
    assert seen[0] == seen[1][::-1] and first == seen[2]
    assert [] == opened.complaints()


def test_rows_that_are_not_ok_or_differ_come_first_and_can_be_had_alone(opened: Browser) -> None:
    """Then all of what is shown is of that kind; a search narrows it, and how much is left is told."""
    total = opened.run(f"{ROWS}.length")
    first = opened.run(f"Object.keys({ROWS}[0].dataset)")
    assert "failed" in first or "differs" in first
    for kind in ("failed", "differs"):
        of_kind = opened.run(f"{ROWS}.filter((one) => '{kind}' in one.dataset).length")
        opened.run(f"{CHOICE}.value = '{kind}'; {CHOICE}.dispatchEvent(new Event('change'))")
        shown = opened.run(f"{ROWS}.filter((one) => !one.hidden).map((one) => '{kind}' in one.dataset)")
        assert [True] * of_kind == shown and 0 < of_kind <= total
    opened.run(f"{CHOICE}.value = ''; {CHOICE}.dispatchEvent(new Event('change'))")
    word = opened.run(f"{ROWS}.at(-1).textContent.match(/Review \\d+:/)[0].toLowerCase()")
    opened.run(f"{SEARCH}.value = {word!r}; {SEARCH}.dispatchEvent(new Event('input'))")
    found = opened.run(f"{ROWS}.filter((one) => !one.hidden).map((one) => one.textContent.toLowerCase())")
    assert found and all(word in text for text in found)
    assert f"{len(found)} of {total}" == opened.run(f"{SEARCH}.nextElementSibling.textContent")


def test_it_reads_at_any_width_and_asks_for_nothing(opened: Browser) -> None:
    """The page never scrolls sideways; a wide table does, and its first column stays where it is."""
    assert opened.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    moved = (
        f"{TABLES}.map((one) => one.parentElement).filter((one) => one.scrollWidth > one.clientWidth + 40)"
        ".map((one) => { const left = () => one.querySelector('tbody th').getBoundingClientRect().left;"
        " const before = left(); one.scrollLeft = 40; const after = left(); one.scrollLeft = 0;"
        " return Math.abs(after - before); })"
    )
    gaps = opened.run(moved)
    assert all(gap < 2 for gap in gaps)
    asked = [one for one in opened.events if one["method"] == "Network.requestWillBeSent"]
    assert all(one["params"]["request"]["url"].startswith(("file:", "data:")) for one in asked)


@pytest.mark.parametrize("size", SIZES)
def test_an_exported_page_breaks_no_figure_and_no_text_is_wider_than_the_window(
    browser: Browser, tmp_path: Path, size: str
) -> None:
    """Short cells stand in one line, whatever the window's width; the first column leaves room for the others."""
    make_run(tmp_path / "run", 30)
    crun_batch.open_run(tmp_path / "run").export("html", tmp_path / "rows.html")
    browser.size(size)
    browser.go((tmp_path / "rows.html").as_uri())
    browser.wait("document.readyState === 'complete' && document.querySelectorAll('tbody tr').length === 30")
    cells = "[...document.querySelectorAll('tbody td')]"
    short = f"{cells}.filter((one) => one.textContent && one.textContent.length < 30)"
    assert 100 < browser.run(f"{short}.length")
    lines = "((all) => (one) => { all.selectNodeContents(one); return all.getClientRects().length })"
    lines = f"({lines})(document.createRange())"
    assert [] == browser.run(f"{short}.filter((one) => {lines}(one) > 1).map((one) => one.textContent)")
    assert browser.run(f"{cells}.every((one) => one.getBoundingClientRect().width <= innerWidth)")
