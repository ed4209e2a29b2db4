"""Answers annotated in a real browser: each word goes to the answer that is meant, and none takes another back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_kit import CHROMIUM, Browser
from page_run_kit import OTHER, PLAIN, make_run

import crun_batch
from crun_batch.page.people import People
from crun_batch.store.annotations import annotations_that_hold

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
HEADING = "document.querySelector('#row h2')?.textContent"
TOLD = "document.getElementById('trouble')"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made"), 4)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def view(run: Path, browser: Browser) -> Iterator[crun_batch.View]:
    browser.size("wide")
    with crun_batch.view(run) as served:
        yield served
        browser.go("about:blank")
        browser.wait("location.href === 'about:blank'")


def form_of(variant: str, part: str = "") -> str:
    return f"document.querySelector('#row .annotate[data-variant=\"{variant}\"] {part}')"


def opened(browser: Browser, view: crun_batch.View, query: str = "") -> None:
    base, _, token = view.url.partition("/#")
    browser.go(f"{base}/?sort=id&{query}#{token}")
    browser.wait("document.querySelectorAll('#rows tbody tr').length === 8")
    if "id=" in query:
        browser.wait(f"{form_of(PLAIN)} !== null")


def line_of(row: str, variant: str) -> str:
    return f'document.querySelector(\'#rows tr[data-id="{row}"][data-variant="{variant}"]\')'


def saved(browser: Browser, variant: str) -> None:
    browser.wait(f"{form_of(variant, '.saved')}?.textContent.startsWith('saved by')")


def what_holds(run: Path) -> set[tuple[str | None, ...]]:
    columns = ["id", "variant", "label", "verdict", "comment"]
    return set(annotations_that_hold(run).select(columns).iter_rows())


def test_a_word_from_one_window_does_not_take_back_those_of_another(
    browser: Browser, view: crun_batch.View, run: Path
) -> None:
    """Only what is changed is said: the label that another window saved meanwhile stays, and is shown."""
    opened(browser, view, "id=r1")
    People(run).save(b'{"row_id": "r1", "variant": "%s", "label": "red"}' % PLAIN.encode())
    browser.run(f"{form_of(PLAIN, '[data-verdict=pass]')}.click()")
    saved(browser, PLAIN)
    assert {("r1", PLAIN, "red", "pass", None)} == what_holds(run)
    assert "red" == browser.run(f"{form_of(PLAIN, 'input')}.value")


def test_what_is_being_typed_stays_while_another_word_is_saved(
    browser: Browser, view: crun_batch.View, run: Path
) -> None:
    opened(browser, view, "id=r1")
    browser.run(f"{form_of(PLAIN, '[data-verdict=fail]')}.click(); {form_of(PLAIN, 'input')}.focus()")
    browser.type("blue")
    saved(browser, PLAIN)
    assert "blue" == browser.run(f"{form_of(PLAIN, 'input')}.value")
    browser.run(f"{form_of(PLAIN, 'input')}.blur()")
    saved(browser, PLAIN)
    assert {("r1", PLAIN, "blue", "fail", None)} == what_holds(run)


def test_the_words_of_others_are_read_and_not_said_again(
    browser: Browser, view: crun_batch.View, run: Path
) -> None:
    """A verdict of one's own brings no label of somebody else's under one's own name."""
    crun_batch.annotate(run, "r1", variant=PLAIN, label="red", verdict="fail", comment="why", annotator="ann")
    opened(browser, view, "id=r1")
    assert "ann: fail, red, why" == browser.run(f"{form_of(PLAIN, '.note')}.textContent")
    browser.run(f"{form_of(PLAIN, '[data-verdict=pass]')}.click()")
    saved(browser, PLAIN)
    assert {("r1", PLAIN, "red", "fail", "why"), ("r1", PLAIN, None, "pass", None)} == what_holds(run)


def test_a_key_annotates_the_answer_whose_line_was_opened(
    browser: Browser, view: crun_batch.View, run: Path
) -> None:
    """Also where its row is still to come: of the row before nothing is said."""
    opened(browser, view)
    first_of_r2 = browser.run("document.querySelector('#rows tr[data-id=\"r2\"]').dataset.variant")
    browser.run(f"{line_of('r1', OTHER)}.querySelector('td').click()")
    browser.wait(f"{HEADING} === 'row r1'")
    browser.press("y")
    saved(browser, OTHER)
    slow = "const asked = fetch; window.fetch = async (...to) => {"
    browser.run(f"{slow} await new Promise((go) => setTimeout(go, 500)); return asked(...to); }}; 1")
    browser.press("j")
    browser.press("x")
    browser.wait(f"{HEADING} === 'row r2'")
    saved(browser, first_of_r2)
    assert {("r1", OTHER, None, "pass", None), ("r2", first_of_r2, None, "fail", None)} == what_holds(run)


def test_what_was_typed_is_saved_when_the_page_is_left(browser: Browser, view: crun_batch.View, run: Path) -> None:
    """Read again, or left by the way back: the comment is there."""
    opened(browser, view, "id=r1")
    browser.run(f"{form_of(PLAIN, '[placeholder=comment]')}.focus()")
    browser.type("so it is")
    browser.send("Page.reload")
    browser.wait(f"{form_of(PLAIN, '[placeholder=comment]')}?.value === 'so it is'")
    assert {("r1", PLAIN, None, None, "so it is")} == what_holds(run)


def test_a_word_that_is_not_saved_is_told_also_when_its_row_is_closed(
    browser: Browser, view: crun_batch.View, run: Path
) -> None:
    """Where nothing hides it; and of a row that does not come, no other one is shown in its place."""
    opened(browser, view, "id=r1")
    browser.run("window.fetch = () => Promise.reject(new Error('gone')); 1")
    browser.press("y")
    browser.wait(f"{TOLD}.textContent.includes('row r1, {PLAIN}, repeat 0: not saved')")
    for width in ("wide", "phone"):
        browser.size(width)
        seen = f"(({{left, top}}) => document.elementFromPoint(left + 9, top + 9))({TOLD}.getBoundingClientRect())"
        assert "trouble" == browser.run(f"{seen}.id")
    browser.press("j")
    browser.wait("document.getElementById('row').hidden")
    browser.wait(f"{TOLD}.textContent.includes('row r1')")
    assert set() == what_holds(run)
