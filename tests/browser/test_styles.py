"""The page where the model has several styles: they can be chosen, and each picture tells its own."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.app.live import Live
from tests.browser.conftest import Open
from tests.browser.test_demo import AXE, CALM, PHONE, paint, widths
from tests.revising import CIRCLE, KITTEN
from tests.styling import CAT


def facts(page: Page, place: int) -> dict[str, str]:
    """What the viewer tells of a picture on the stage."""
    page.locator("#tiles .frame").nth(place).click()
    terms, texts = (page.locator(f"#viewer-facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    page.get_by_role("button", name="Close").click()
    return dict(zip(terms, texts, strict=True))


def test_styles_are_chosen_and_told(open_page: Open, styled: Live) -> None:
    page = open_page(styled, **CALM)
    choice = page.get_by_label("Style")
    expect(choice).to_be_visible()
    assert choice.locator("option").all_inner_texts() == ["Any style", "Style: flat", "Style: 3d"]
    paint(page, KITTEN, 4)
    expect(page.locator("#told")).to_contain_text(f"4 pictures of “{CAT}”")
    told = [facts(page, place) for place in range(4)]
    assert sorted(one["Style"] for one in told) == ["3d", "3d", "flat", "flat"]
    for one in told:
        assert one["Painted as"] == {"flat": CAT, "3d": "a 3d cat"}[one["Style"]]
    choice.select_option("3d")
    paint(page, KITTEN, 2)
    assert {facts(page, place)["Style"] for place in range(2)} == {"3d"}
    choice.select_option("")
    page.locator("#tiles .frame").first.click()
    page.get_by_role("button", name="Use its prompt and seed").click()
    expect(choice).to_have_value("3d")


def test_what_the_pictures_leave_out_is_said_in_words(open_page: Open, styled: Live) -> None:
    page = open_page(styled, **CALM)
    said = page.locator("#fit")
    paint(page, CAT)
    expect(said).to_be_hidden()
    paint(page, KITTEN)
    expect(said).to_have_text(f"That is the nearest that I can paint: {CAT}.")
    page.get_by_label("Style").select_option("3d")
    paint(page, CIRCLE)
    expect(said).to_have_text(f"I know “{CIRCLE}”, but not in 3d. So it is painted flat.")
    paint(page, "an elefant")
    expect(said).to_have_text("I don’t know “an elefant”, so I paint a thinking face. Closest: an elephant")
    said.get_by_role("button", name="an elephant").click()
    expect(page.get_by_label("Prompt")).to_have_value("an elephant")


def test_what_it_draws_is_shown_by_kind_and_style(open_page: Open, styled: Live) -> None:
    page = open_page(styled, **PHONE)
    expect(page.locator("#shelf-line")).to_contain_text(
        "Simple pictures of 1074 things, 2 of them also in 3d; in colours"
    )
    kinds = page.locator("#samples section")
    expect(kinds.locator("h3")).to_have_text(["Animals", "Food", "Things", "Several", "In 3d"])
    expect(kinds.last.get_by_role("button")).to_have_count(8)
    content, window = widths(page)
    assert content <= window
    page.get_by_label("Search the things that it draws").fill("🦊")
    expect(page.locator("#things button")).to_have_text(["a fox"])
    kinds.last.get_by_role("button").first.click()
    expect(page.get_by_label("Prompt")).to_have_value("a 3d cat")


def test_the_choice_fits_a_phone_and_can_be_read(open_page: Open, styled: Live) -> None:
    page = open_page(styled, **PHONE)
    expect(page.get_by_label("Style")).to_be_visible()
    content, window = widths(page)
    assert content <= window
    page.evaluate(AXE)
    found = page.evaluate("axe.run({ runOnly: ['wcag2a', 'wcag2aa'] })")["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_there_is_no_choice_without_styles(open_page: Open) -> None:
    page = open_page()
    page.wait_for_load_state("networkidle")
    expect(page.get_by_label("Style")).to_be_hidden()
