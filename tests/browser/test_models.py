"""The page where the server has several models: one is chosen with its styles, and each picture tells its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app.live import Live
from tests.browser.conftest import Open
from tests.browser.test_demo import AXE, CALM, PHONE, paint, widths
from tests.browser.test_styles import facts
from tests.styling import with_styles

TABLET = {"viewport": {"width": 820, "height": 1100}}


@pytest.fixture(scope="module")
def live(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A ready server of two models, of which the second has styles."""
    folder = tmp_path_factory.mktemp("models")
    styled = with_styles(weights, folder / "styled")
    flags = ["--weights", f"plain={weights}", "--weights", f"styled={styled}", "--served-model-name", "dall-e-3"]
    with Live(weights, folder / "log", flags) as server:
        yield server.ready()


def chosen(page: Page) -> str:
    return page.get_by_label("Model").input_value()


def test_a_model_is_chosen_and_told(open_page: Open) -> None:
    page = open_page(**CALM)
    choice = page.get_by_label("Model")
    expect(choice).to_be_visible()
    assert choice.locator("option").all_inner_texts() == ["plain", "styled"]
    expect(page.get_by_label("Style")).to_be_hidden()
    choice.select_option("styled")
    expect(page.get_by_label("Style")).to_be_visible()
    paint(page, "a cat", 1)
    assert facts(page, 0)["Model"] == "styled"
    choice.select_option("plain")
    expect(page.get_by_label("Style")).to_be_hidden()
    paint(page, "a cat", 1)
    assert facts(page, 0)["Model"] == "plain"
    page.locator("#kept-tiles .frame").first.click()
    page.get_by_role("button", name="Use its prompt and seed").click()
    assert chosen(page) == "styled"


@pytest.mark.parametrize("screen", [PHONE, TABLET], ids=["phone", "tablet"])
def test_both_choices_fit_a_small_screen(open_page: Open, screen: dict[str, object]) -> None:
    page = open_page(**screen)
    page.get_by_label("Model").select_option("styled")
    expect(page.get_by_label("Style")).to_be_visible()
    content, window = widths(page)
    assert content <= window
    page.evaluate(AXE)
    found = page.evaluate("axe.run({ runOnly: ['wcag2a', 'wcag2aa'] })")["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
