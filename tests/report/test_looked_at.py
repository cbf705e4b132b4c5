"""The page in a browser: no mistakes, every chart there, nothing wider than a phone, and nothing of strangers run."""

import json
import shutil
from dataclasses import replace

import pytest

import browser
from manyview.report.page import Wishes, find, page

pytest.importorskip("plotly", reason="plotly is not installed")

from manyview.report.render import html

WIDTH = "document.documentElement.scrollWidth"
DRAWN = """[...document.querySelectorAll('[data-chart]')].filter(
    box => box.querySelector('.subplot .trace, .subplot .hm')).length"""
FULL = """[...document.querySelectorAll('.plot')].every(
    box => Math.abs(box.querySelector('.main-svg').getBoundingClientRect().width - box.clientWidth) <= 1)"""
EVIL = "</script><script>window.evil=1</script><img src=x onerror=window.evil=2><a href='javascript:1'>x</a>%{x}"

pytestmark = [
    pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is here (chromium or google-chrome, or $CHROMIUM)"),
]


def colours(tab):
    """Of text, of the page, and of a chart's text."""
    read = "(() => {{ const found = getComputedStyle({}); return {}; }})()"
    body = tab.value(read.format("document.body", "[found.color, found.backgroundColor]"))
    return [*body, tab.value(read.format("document.querySelector('.plot .legendtext')", "found.fill"))]


@pytest.mark.slow(reason="starts a browser, which draws 18 charts twice")
def test_the_page_is_drawn_and_fits(compared, tab, tmp_path):
    written = tmp_path / "page.html"
    written.write_text(html(page(replace(find([compared]), detailed=[0]), Wishes())), encoding="utf-8")
    tab.said.clear()
    tab.see(390)
    tab.open(written.as_uri())
    count = tab.value("document.querySelectorAll('[data-chart]').length")
    assert count >= 15
    assert tab.value(DRAWN) == count
    assert tab.value(WIDTH) == 390
    assert colours(tab) == ["rgb(27, 31, 36)", "rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    tab.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert tab.value(WIDTH) == 390
    tab.see(390, dark=True)
    assert colours(tab) == ["rgb(230, 233, 237)", "rgb(18, 22, 27)", "rgb(230, 233, 237)"]
    tab.see(700, dark=True, media="print")
    assert tab.value(WIDTH) == 700
    assert tab.value(FULL)
    assert colours(tab) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    tab.see(1280)
    tab.wait(FULL)
    assert tab.value(DRAWN) == count
    assert tab.value(WIDTH) == 1280
    assert tab.said == []


@pytest.mark.slow(reason="a browser draws ten charts")
def test_nothing_of_strangers_runs(runs, tab, tmp_path):
    folder = tmp_path / "evil"
    shutil.copytree(runs["tied"], folder)
    splits = json.loads((folder / "splits.json").read_text())
    (folder / "splits.json").write_text(json.dumps({**splits, "note": EVIL}))
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("title: two views of digits", f"title: {json.dumps(EVIL)}"))
    with (folder / "metrics.jsonl").open("a") as file:
        for epoch in (4, 5):
            file.write(json.dumps({"step": 30, "epoch": epoch, "terms": {EVIL: 1.0}}) + "\n")
    written = tmp_path / "page.html"
    written.write_text(html(page(find([folder]), Wishes(samples=0))), encoding="utf-8")
    tab.said.clear()
    tab.see(1280)
    tab.open(written.as_uri())
    assert tab.value("document.querySelector('h1').textContent") == EVIL
    assert tab.value("typeof window.evil") == "undefined"
    assert tab.value("document.querySelectorAll('a[href^=javascript], .plot a, img[src=x]').length") == 0
    assert tab.value("document.querySelectorAll('script[src], iframe, object, form').length") == 0
    assert tab.said == []
