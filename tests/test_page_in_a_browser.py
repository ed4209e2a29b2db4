"""The local page in a real browser: nothing becomes a script, keys lead through it, a link gives it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from browser_kit import CHROMIUM, SIZES, Browser
from measurements.made_up_run import make_run as make_large_run
from page_run_kit import HOSTILE, PLAIN, make_run

import crun_batch
from crun_batch.console.amounts import credit_amount, usd
from crun_batch.store.annotations import annotations_that_hold

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
ROWS = 100
COUNTED = "!document.getElementById('count').textContent.startsWith('…')"
SHOWN = "document.querySelectorAll('#rows tbody tr').length"
PICTURES = os.environ.get("PAGE_PICTURES")
"""A folder for what was seen, to look at."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), ROWS)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest, browser: Browser) -> str:
    browser.size(request.param)
    browser.go("about:blank")  # a page of the test before may still ask its server, which has ended
    browser.wait("location.href === 'about:blank'")
    browser.events.clear()
    return str(request.param)


@pytest.fixture(scope="module")
def page(run: Path) -> Iterator[crun_batch.View]:
    with crun_batch.view(run) as served:
        yield served


def picture(browser: Browser, name: str) -> None:
    if PICTURES:
        browser.picture(Path(PICTURES) / f"{name}.png")


def opened(browser: Browser, page: crun_batch.View, query: str = "") -> None:
    base, _, token = page.url.partition("/#")
    browser.go(f"{base}/?{query}#{token}")
    browser.wait(f"document.body.dataset.shown !== undefined && {SHOWN} > 0 && {COUNTED}")


def fits(browser: Browser) -> bool:
    """Whether the page itself does not scroll sideways."""
    return bool(browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def test_nothing_in_a_row_becomes_a_script_or_asks_for_anything(
    browser: Browser, page: crun_batch.View, size: str
) -> None:
    """Hostile texts in prompts, answers, refusals and verdicts, all opened: 0 scripts, 0 addresses elsewhere."""
    columns = "&".join(
        f"column={name}" for name in ("id", "variant", "status", "text", "output_text", "error_message")
    )
    opened(browser, page, columns)
    picture(browser, f"rows-{size}")
    browser.run("document.getElementById('failures').open = true")
    browser.run("document.querySelector('button.open').click()")
    browser.wait("document.querySelectorAll('#row .attempt').length >= 3")
    browser.run("for (const one of document.querySelectorAll('#row details')) one.open = true")
    picture(browser, f"row-{size}")
    assert browser.run(f"document.querySelector('#row .message pre').textContent.includes({HOSTILE!r})")
    picture_is = "document.querySelector('#row img')"
    browser.wait(f"{picture_is}.complete && {picture_is}.naturalWidth === 1")
    assert 6 <= browser.run("document.querySelectorAll('#row .facts dt').length")
    assert not browser.run("document.body.innerText.includes('[object')")
    assert browser.run("window.hostile === undefined")
    assert 1 == browser.run("document.scripts.length")
    assert 0 == browser.run(
        "document.querySelectorAll('iframe, object, base, a, [style], #rows svg, #row svg, #row style').length"
    )
    base = page.url.partition("#")[0]
    assert [] == [url for url in browser.asked() if not url.startswith(base)]
    assert [] == browser.complaints()
    assert fits(browser)


def test_an_amount_has_the_digits_that_a_terminal_shows(
    browser: Browser, page: crun_batch.View, size: str
) -> None:
    """The page and the summary never contradict each other: half to even, thousands, 19 digits exact."""
    texts = [
        "0",
        "0.1",
        "1.5",
        "0.085335",
        "0.085345",
        "0.99999",
        "17.067",
        "1234.565",
        "1234567.9",
        "0.000000000001",
    ]
    texts += ["9007199254740993.125", "12"]
    opened(browser, page)
    each = "(one) => ['$' + dom.rounded(one, 2), dom.rounded(one, 0)]"
    script = f"import('/static/dom.js').then((dom) => {texts}.map({each}))"
    assert [[usd(Decimal(one)), credit_amount(Decimal(one)).split()[0]] for one in texts] == browser.run(script)


def test_what_is_not_known_or_not_held_is_no_0(browser: Browser, page: crun_batch.View, size: str) -> None:
    """A run priced in credits alone holds nothing in the end: the page says nothing of it."""
    opened(browser, page)
    held = [(None, "0"), ("0", "0"), (None, "1"), ("0", "2.5"), ("0.5", "100"), (None, None)]
    given = [{"held_usd": usd, "held_credits": credits_} for usd, credits_ in held]
    each = "(one) => live.held(one).map(([name, shown]) => `${name} ${shown.textContent}`).join()"
    said = browser.run(f"import('/static/live.js').then((live) => {json.dumps(given)}.map({each}))")
    assert ["", "", "held 1 credit", "held 2.5 credits", "held $0.50, 100 credits", "held unknown"] == said
    spent = "dom.about('0', '0').textContent + ' ' + dom.money('0', '1')"
    assert "$0.00 $0, 1 credit" == browser.run(f"import('/static/dom.js').then((dom) => {spent})")


def test_keys_lead_through_the_rows(browser: Browser, page: crun_batch.View, size: str) -> None:
    """j and k move, Enter opens, j goes to the next row, Esc closes, n turns the page, / searches, ? tells."""
    opened(browser, page, "sort=id&rows=50")
    browser.press("j")
    browser.press("j")
    browser.press("j")
    browser.press("k")
    first = browser.run("document.querySelectorAll('#rows tbody tr')[1].dataset.id")
    browser.press("Enter")
    browser.wait(f"document.querySelector('#row h2')?.textContent === 'row {first}'")
    browser.press("j")
    following = browser.run("document.querySelectorAll('#rows tbody tr')[2].dataset.id")
    browser.wait(f"document.querySelector('#row h2')?.textContent === 'row {following}'")
    assert f"id={following}" in browser.run("location.search")
    browser.press("Escape")
    browser.wait("document.getElementById('row').hidden")
    browser.press("n")
    browser.wait("document.getElementById('page').textContent.startsWith('page 2')")
    browser.press("p")
    browser.wait("document.getElementById('page').textContent.startsWith('page 1')")
    browser.press("?")
    browser.wait("document.getElementById('help').open")
    browser.press("Escape")
    browser.wait("!document.getElementById('help').open")
    browser.press("/")
    browser.wait("document.activeElement.id === 'q'")
    browser.type("refused:")
    browser.wait("document.getElementById('count').textContent === '20 units'")
    assert "q=refused" in browser.run("location.search")


def test_an_open_row_has_the_keyboard_and_hides_nothing_that_it_reaches(
    browser: Browser, page: crun_batch.View, size: str
) -> None:
    """What is opened by Enter is what arrows scroll and Tab goes on in; closed, its line has the focus again."""
    opened(browser, page, "sort=id")
    browser.press("j")
    browser.press("j")
    browser.press("Enter")
    browser.wait("document.activeElement.id === 'row'")
    box = browser.run("document.getElementById('row').getBoundingClientRect().toJSON()")
    assert 0 <= box["left"] and box["right"] <= browser.run("document.documentElement.clientWidth")
    heads = "[...document.querySelectorAll('.top button')].map((one) => one.getBoundingClientRect().right)"
    assert size == "phone" or all(right <= box["left"] for right in browser.run(heads))
    browser.press("Escape")
    browser.wait("document.activeElement.closest('tr') === document.querySelectorAll('#rows tbody tr')[1]")


def test_a_heading_keeps_the_focus_while_it_sorts(browser: Browser, page: crun_batch.View, size: str) -> None:
    """Enter once more and it sorts the other way."""
    opened(browser, page)
    browser.run("document.querySelector('#rows thead [data-column=variant]').focus()")
    for way in ("ascending", "descending"):
        browser.press("Enter")
        browser.wait(f"document.querySelector('#rows [aria-sort={way}]') !== null && {COUNTED}")
    assert "variant" == browser.run("document.activeElement.dataset.column")


def test_what_is_being_typed_stays_while_rows_come_and_the_way_back_empties_it(
    browser: Browser, page: crun_batch.View, size: str
) -> None:
    """A run that goes on is read again every 2 seconds; a field says what is asked for, with the focus too."""
    opened(browser, page)
    browser.run("document.getElementById('where').focus()")
    browser.type("status =")
    browser.run("document.body.dataset.shown = ''")
    browser.run("dispatchEvent(new KeyboardEvent('keydown', {key: 'r'}))")
    browser.wait(f"document.body.dataset.shown !== '' && {COUNTED}")
    assert "status =" == browser.run("document.getElementById('where').value")
    opened(browser, page)
    browser.press("/")
    browser.type("refused:")
    browser.wait("document.getElementById('count').textContent === '20 units'")
    browser.run("history.back()")
    browser.wait("document.getElementById('count').textContent === '200 units'")
    assert "" == browser.run("document.getElementById('q').value")


def test_a_page_beyond_the_last_is_the_last(browser: Browser, page: crun_batch.View, size: str) -> None:
    """An address that was kept, of rows that have become fewer."""
    opened(browser, page, "rows=20")
    base, _, token = page.url.partition("/#")
    browser.go(f"{base}/?rows=20&page=99#{token}")
    browser.wait(f"document.getElementById('page').textContent === 'page 10 of 10' && {SHOWN} === 20")
    assert "page=10" in browser.run("location.search")


def test_a_text_has_the_direction_of_its_script(browser: Browser, page: crun_batch.View, size: str) -> None:
    """Hebrew and Arabic are read from the right, line by line, whatever the page's own direction."""
    opened(browser, page, "id=r1")
    text = "document.querySelector('#row pre.text')"
    browser.wait(f"{text} !== null")
    for words, side in (("\u05e9\u05dc\u05d5\u05dd 1!", "right"), ("hello 1!", "left")):
        browser.run(f"{text}.textContent = {words!r}")
        drawn = f"(() => {{ const a = document.createRange(); a.selectNodeContents({text}.firstChild); "
        drawn += f"const [one, all] = [a, {text}].map((it) => it.getBoundingClientRect()); "
        gaps = browser.run(drawn + "return {left: one.left - all.left, right: all.right - one.right}})()")
        assert gaps[side] < 20 < max(gaps.values())


def test_every_menu_is_seen_whole_and_a_page_can_be_named(
    browser: Browser, page: crun_batch.View, size: str
) -> None:
    """No field of a menu lies beside the screen; a number leads to its page, one beyond the last to the last."""
    opened(browser, page, "rows=20")
    menus = browser.run("[...document.querySelectorAll('#filters .menu:not([hidden])')].map((one) => one.id)")
    assert {"statuses", "variants", "scores", "columns"} == set(menus)
    for menu in menus:
        browser.run(f"document.getElementById({menu!r}).open = true")
        box = browser.run(f"document.querySelector('#{menu} fieldset').getBoundingClientRect().toJSON()")
        assert 0 <= box["left"] and box["right"] <= browser.run("innerWidth"), menu
        browser.run(f"document.getElementById({menu!r}).open = false")
    for asked, shown in (("7", "page 7 of 10"), ("99", "page 10 of 10"), ("1", "page 1 of 10")):
        field = "document.getElementById('to-page')"
        browser.run(f"{field}.value = {asked!r}; {field}.dispatchEvent(new Event('change'))")
        browser.wait(f"document.getElementById('page').textContent === {shown!r}")
    assert "page" not in browser.run("location.search")


def test_a_link_gives_the_same_rows_again(browser: Browser, page: crun_batch.View, size: str) -> None:
    """What was clicked together stands in the address; another tab shows it too, and the way back leads back."""
    opened(browser, page)
    browser.run("document.querySelector('#statuses input[value=ok]').click()")
    browser.wait("document.getElementById('count').textContent === '180 units'")
    browser.run("document.getElementById('differ').click()")
    browser.wait("document.getElementById('count').textContent === '154 units'")
    browser.run("document.querySelector('#scores select').value = '<'")
    browser.run("document.querySelector('#scores select').dispatchEvent(new Event('change'))")
    browser.wait(f"document.getElementById('count').textContent !== '154 units' && {COUNTED}")
    browser.run(
        "[...document.querySelectorAll('#rows thead button')].find((one) => one.textContent === 'id').click()"
    )
    browser.wait("document.querySelector('#rows thead th')?.getAttribute('aria-sort') === 'ascending'")
    address, rows = browser.run("location.href"), browser.run("document.querySelector('#rows tbody').innerText")
    browser.go(address)
    browser.wait(f"{SHOWN} > 0 || document.getElementById('count').textContent === '0 units'")
    assert rows == browser.run("document.querySelector('#rows tbody').innerText")
    assert browser.run("document.getElementById('differ').checked")
    browser.run("history.back()")
    browser.wait("document.querySelector('#rows thead th')?.getAttribute('aria-sort') === null")


def test_what_cannot_be_answered_is_said_and_the_next_question_is(
    browser: Browser, page: crun_batch.View, size: str
) -> None:
    opened(browser, page)
    for where, words in (("nonsense", "nonsense"), ("status = 'ok'", "")):
        browser.run(f"document.getElementById('where').value = {where!r}")
        browser.run("document.getElementById('where').dispatchEvent(new Event('change'))")
        told = "document.getElementById('trouble')"
        browser.wait(f"{told}.textContent.includes('nonsense')" if words else f"{told}.hidden")
    assert 1 == browser.run("[...document.querySelectorAll('#rows .badge')].length > 0 ? 1 : 0")


def test_without_its_token_the_page_shows_nothing(browser: Browser, run: Path, size: str) -> None:
    with crun_batch.view(run) as other:
        browser.go(other.url.partition("#")[0])
        browser.wait("document.getElementById('trouble').textContent.includes('token')")
        assert 0 == browser.run(SHOWN)


@contextmanager
def a_server_that_is_killed(run: Path) -> Iterator[str]:
    """The address of a page, whose process has no time to end in order."""
    command = [sys.executable, "-m", "crun_batch", "view", str(run), "--no-open"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(crun_batch.__file__).parent.parent),
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(60)


def right_answers(run: Path) -> float:
    """The share of one variant's answers that are what people say."""
    gold = crun_batch.compare(run, gold="annotations", score="polite").gold
    return float(gold[PLAIN].accuracy.value)


def test_what_is_said_in_the_browser_survives_kill_9_of_its_server(browser: Browser, run: Path, size: str) -> None:
    """Said to be saved: then it is there, whatever becomes of the server, and the figures of compare change."""
    (run / "annotations.parquet").unlink(missing_ok=True)
    row = crun_batch.open_run(run).results().filter(pl.col("id") == "r1", pl.col("variant") == PLAIN).collect()
    crun_batch.annotate(run, "r1", variant=PLAIN, label=row["output_text"].item())
    assert 1.0 == right_answers(run)
    with a_server_that_is_killed(run) as url:
        base, _, token = url.partition("/#")
        browser.go(f"{base}/?id=r1#{token}")
        browser.wait("document.querySelectorAll('#row .annotate').length === 2")
        form = f"document.querySelector('#row .annotate[data-variant=\"{PLAIN}\"]')"
        browser.run(f"{form}.querySelector('[data-verdict=pass]').click()")
        browser.wait(f"{form}.querySelector('.saved').textContent.startsWith('saved by')")
        browser.run(f"window.corrected = {form}; window.corrected.querySelector('.saved').textContent = ''")
        label = "window.corrected.querySelector('input')"
        browser.run(f"{label}.value = 'red'; {label}.dispatchEvent(new Event('change'))")
        browser.wait("window.corrected.querySelector('.saved').textContent.startsWith('saved by')")
        assert browser.run("document.querySelector('#row .annotate [aria-pressed=true]') !== null")
        browser.wait("document.querySelector('#people summary').textContent.includes('1 label,')")
        picture(browser, f"annotated-{size}")
    [held] = annotations_that_hold(run).to_dicts()
    assert ("r1", "red", "pass") == (held["id"], held["label"], held["verdict"])
    assert 0.0 == right_answers(run)
    with crun_batch.view(run) as again:
        opened(browser, again, "annotated=1")
        assert "red" in browser.run("document.querySelector('#rows .said').textContent")
    (run / "annotations.parquet").unlink()


def test_variants_are_compared_and_a_cell_opens_its_rows(browser: Browser, tmp_path: Path, size: str) -> None:
    """Leaderboard, all pairs, confusion, calibration: the count in a cell is that of the rows it opens."""
    make_large_run(tmp_path / "run", 1_200)
    with crun_batch.view(tmp_path / "run") as page:
        base, _, token = page.url.partition("/#")
        browser.go(f"{base}/?view=compare&gold=gold#{token}")
        browser.wait("document.querySelectorAll('#compare .reliability').length === 6")
        picture(browser, f"compare-{size}")
        pairs = crun_batch.compare(tmp_path / "run").comparison.pairs
        told = f"over all {len(pairs)} pairs"
        assert pairs and browser.run(f"document.getElementById('compare').textContent.includes({told!r})")
        assert fits(browser)
        cell = "document.querySelector('#compare a.heat.wrong')"
        count = browser.run(f"Number({cell}.textContent)")
        browser.run(f"{cell}.click()")
        browser.wait(f"document.getElementById('count').textContent.replace(/ (row|unit)s?/, '') === '{count}'")
        assert [] == browser.complaints()


def test_that_variants_are_being_compared_is_said(
    browser: Browser, page: crun_batch.View, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks at an empty page while a million rows are compared."""
    asked, go_on = threading.Event(), threading.Event()

    def compared(*_: object) -> dict[str, object]:
        asked.set()
        go_on.wait(60)
        raise crun_batch.InputError("no more is needed here")

    monkeypatch.setattr("crun_batch.page.shown_runs.compared_document", compared)
    base, _, token = page.url.partition("/#")
    browser.go(f"{base}/?view=compare#{token}")
    assert asked.wait(60)
    browser.wait("document.getElementById('compare').textContent === 'comparing the variants …'")
    go_on.set()
    browser.wait("document.getElementById('trouble').textContent.includes('no more is needed here')")
    browser.wait("document.getElementById('compare').textContent === ''")


def test_whoever_cannot_see_or_point_can_use_it(browser: Browser, page: crun_batch.View, size: str) -> None:
    """axe finds nothing serious: on the rows, with a row open, with the keys shown."""
    axe = pytest.importorskip("axe_core_python")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    opened(browser, page, "id=r1")
    browser.wait("document.querySelectorAll('#row .unit').length === 2")
    for act in ("document.getElementById('failures').open = true", "document.getElementById('show-help').click()"):
        browser.run(act)
        browser.run(f"{script};1")
        found = browser.run(
            "axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations.filter((one) => "
            "['serious', 'critical'].includes(one.impact)).map((one) => [one.id, one.nodes[0].html]))"
        )
        assert [] == found


MILLION = os.environ.get("PAGE_MILLION", "")
"""A folder for a run of a million rows, or one that stands there already."""


@pytest.fixture(scope="module")
def million() -> Path:
    if not Path(MILLION).exists():
        make_large_run(Path(MILLION), 1_000_000)
    return Path(MILLION)


@pytest.mark.skipif(not MILLION, reason="minutes: PAGE_MILLION=FOLDER")
def test_a_million_rows_are_as_near(browser: Browser, million: Path, size: str) -> None:
    """Pages, filters, order, the last page and one row of a run of a million rows; its variants side by side."""
    with crun_batch.view(million) as page:
        opened(browser, page)
        browser.wait("document.getElementById('count').textContent === '1,000,000 units'")
        picture(browser, f"million-{size}")
        opened(browser, page, "status=error&sort=-latency_seconds&q=alert")
        opened(browser, page, "page=10000")
        assert 100 == browser.run(SHOWN)
        assert fits(browser)
        base, _, token = page.url.partition("/#")
        browser.go(f"{base}/?id=100000#{token}")
        browser.wait("document.querySelectorAll('#row .unit').length === 6")
        picture(browser, f"million-row-{size}")
        assert "Review 100000" in browser.run("document.querySelector('#row .message:last-of-type').textContent")
        browser.wait(f"{SHOWN} === 100 && {COUNTED}")
        for query, rows in (("q=Review 100000:&in=text", 6), ("q=zebra", 0), ("q=Review 100.00:&regex=1", 60)):
            browser.go(f"{base}/?{query}&rows=100#{token}")
            browser.wait(f"document.getElementById('count').textContent === '{rows} units' && {SHOWN} === {rows}")
        browser.go(f"{base}/?view=compare&gold=gold#{token}")
        browser.wait("document.querySelectorAll('#compare .reliability').length === 6")
        picture(browser, f"million-compare-{size}")
        assert fits(browser) and [] == browser.complaints()
