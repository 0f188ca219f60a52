"""The page /docs: what it tells of fields and answers, and that its forms work under the Content-Security-Policy."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.app.live import Live
from tests.browser.conftest import KEY, Open


def section(page: Page, route: str) -> Locator:
    """The part of /docs about a route, such as "POST /generate"."""
    page.goto("/docs")
    return page.locator("section").filter(has=page.get_by_role("heading", name=route, exact=True))


def test_a_route_tells_required_fields_defaults_and_an_answer(open_page: Open) -> None:
    page = open_page()
    generate = section(page, "POST /generate")
    rows = generate.locator("table").first.locator("tr")
    expect(rows.first).to_contain_text("text")
    expect(rows.first).to_contain_text("required: string, 1 to 32000 characters")
    expect(rows.filter(has_text="temperature")).to_contain_text("number, 0 to 5, default 0.9")
    expect(rows.filter(has_text="guidance")).to_contain_text("default 2")
    expect(generate).to_contain_text("iVBORw0KGgo")
    images = section(page, "POST /v1/images/generations")
    expect(images).to_contain_text('"total_tokens": 1035')
    expect(images.locator("table").first.locator("tr").first).to_contain_text("prompt")


def test_a_form_sends_a_request_and_shows_its_pictures(open_page: Open) -> None:
    page = open_page()
    form = section(page, "POST /generate").locator("form")
    form.get_by_label("text").fill("a blue circle")
    form.get_by_text("optional fields").click()
    form.get_by_label("num_images").fill("2")
    form.get_by_label("embed_prompt").select_option("true")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("img")).to_have_count(2)
    expect(form.get_by_role("status")).to_contain_text("200 in")
    form.get_by_label("num_images").fill("11")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("status")).to_contain_text("num_images must be an integer from 1 to 10, got 11")
    things = section(page, "GET /v1/models/{model}").locator("form")
    things.get_by_label("model").fill("slow")
    things.get_by_role("button", name="Send").click()
    expect(things.get_by_role("status")).to_contain_text('"id": "slow"')


def test_a_form_sends_the_key(open_page: Open, guarded: Live) -> None:
    page = open_page(guarded)
    form = section(page, "GET /v1/models").locator("form")
    form.get_by_label("API key").fill(KEY)
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("status")).to_contain_text("200 in")


def test_settings_show_the_values_of_the_model(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    for label, value in (("Temperature", "0.9"), ("Guidance", "2"), ("Top-p", "1")):
        expect(page.get_by_label(label)).to_have_attribute("placeholder", value)


OUTSIDE = """() => {
    const dialog = document.getElementById("viewer").getBoundingClientRect();
    const parts = [...document.querySelectorAll("#viewer *")].filter((part) => part.getBoundingClientRect().width);
    return parts.filter((part) => {
        const { left, right } = part.getBoundingClientRect();
        return left < dialog.left - 1 || right > dialog.right + 1;
    }).map((part) => part.outerHTML.slice(0, 80));
}"""


@pytest.mark.parametrize("width", [600, 768, 834, 1024])
def test_the_viewer_fits_a_tablet(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 1000}, reduced_motion="reduce")
    page.get_by_label("Prompt", exact=True).fill("a red apple " + "x" * 60)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0.75")
    page.get_by_role("button", name="Generate").click()
    page.locator("#tiles .frame:enabled").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
