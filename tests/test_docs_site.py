"""The documentation builds as a site, no link in it leads nowhere, and its tables are what the code says."""

from __future__ import annotations

import re
import subprocess
import sys

import columns_page
import pytest
from page_kit import ROOT

import crun_batch
from crun_batch.store.meanings import ATTEMPTS, RESULTS


def build(docs, site):
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "-b", "html", str(docs), str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_site_builds_without_a_warning_and_has_every_public_name(tmp_path):
    """A link that leads nowhere, a page outside the contents, an undocumented public name."""
    done = build(ROOT / "docs", tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    page = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert [] == [name for name in crun_batch.__all__ if f'id="crun_batch.{name}"' not in page]


@pytest.mark.parametrize("broken", ["[there](not-there.md)", "[there](job-file.md#no-such-heading)"])
def test_a_broken_link_fails_the_build(tmp_path, broken):
    """The check can fail."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "conf.py").write_text((ROOT / "docs" / "conf.py").read_text(encoding="utf-8"), encoding="utf-8")
    (docs / "index.md").write_text(f"# One page\n\n{broken}\n\n```{{toctree}}\njob-file\n```\n", encoding="utf-8")
    (docs / "job-file.md").write_text("# Another\n\nText.\n", encoding="utf-8")
    assert 0 != build(docs, tmp_path / "site").returncode


def test_every_column_is_described_and_no_other():
    """docs/columns.md is written from the schemas; UPDATE: `python tests/columns_page.py`."""
    assert columns_page.PAGE.read_text(encoding="utf-8") == columns_page.page()
    tables = ((columns_page.results_schema, RESULTS), (columns_page.attempts_schema, ATTEMPTS))
    for schema_of, meanings in tables:
        assert set() == set(meanings) - set(schema_of(columns_page.EXAMPLE).names)


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert 150 >= len(lines)


def test_the_links_of_pages_outside_the_site_lead_somewhere():
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    links = {
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([\w./-]+)\)", page.read_text(encoding="utf-8"))
    }
    assert [] == [link for page, link in links if not (page.parent / link).exists()]
