"""The demo page in a real browser, over the real server: what a person does with it, and what is seen meanwhile."""

from __future__ import annotations

import base64
import io
import json
import re
from importlib.resources import files
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Locator, Page, Route, expect

from tests.app.live import Live
from tests.browser.conftest import KEY, ROWS, SECONDS, Open
from tests.revising import CIRCLE, KITTEN

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
CALM: dict[str, Any] = {"reduced_motion": "reduce"}

expect.set_options(timeout=1000 * SECONDS)


LISTEN = """() => {
    window.said = [];
    const text = (change) => Array.from(change.addedNodes, (node) => node.textContent);
    const hear = (changes) => said.push(...changes.flatMap(text));
    new MutationObserver(hear).observe(document.getElementById("told"), { childList: true });
}"""


def ask(page: Page, prompt: str, n: int = 1) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("slider", name="Pictures").fill(str(n))
    page.get_by_role("button", name="Generate").click()


def stage(page: Page, state: str) -> None:
    """Wait until the painting is in this state."""
    expect(page.locator("#stage")).to_have_attribute("data-state", state)


def paint(page: Page, prompt: str, n: int = 1) -> None:
    ask(page, prompt, n)
    stage(page, "done")


def look(part: Locator) -> Image.Image:
    return Image.open(io.BytesIO(part.screenshot())).convert("RGB")


def differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None


def kept(page: Page) -> Locator:
    return page.locator("#kept-tiles .frame")


def widths(page: Page) -> tuple[int, int]:
    """Of the page's content, and of what it is shown in."""
    content, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    return content, window


def unfinished(page: Page, live: Live, prompt: str) -> int:
    """Ask for ten pictures, and let the stopped workers go on until a tile shows an unfinished one: its place.

    Workers that went on for too long may have painted all of them. Then ten others are asked for.
    """
    ask(page, prompt, n=10)

    def place() -> int | None:
        if (found := int(page.evaluate(PAINTING))) >= 0:
            return found + 1
        if page.locator("#stage").get_attribute("data-state") == "done":
            page.get_by_role("button", name="Generate").click()
        live.inch()
        page.wait_for_timeout(100)  # for what is on its way
        return None

    found: int = live.wait(place, "no unfinished picture is seen")
    return found - 1


PAINTING = (
    """() => [...document.querySelectorAll("#tiles .tile")].findIndex((tile) => tile.dataset.state === "painting")"""
)


def test_pictures_appear_from_the_top_while_they_are_painted(open_page: Open, live: Live) -> None:
    page = open_page(**CALM)
    page.get_by_role("slider", name="Pictures").fill("10")
    frames = page.locator("#tiles .frame")
    expect(frames).to_have_count(10)
    empty = look(frames.first)
    stripe = (4, empty.height - 12, empty.width - 4, empty.height - 6)  # in the last row
    with live.stopped():
        place = unfinished(page, live, "a red apple")
        expect(page.locator("#told")).to_contain_text("left")
        early = look(frames.nth(place))
    assert not differ(early.crop(stripe), empty.crop(stripe)), "the bottom is not yet painted"
    assert max(ImageStat.Stat(early.crop((8, 4, early.width - 8, 10))).stddev) > 5, "the top is"
    stage(page, "done")
    assert max(ImageStat.Stat(look(frames.nth(place)).crop(stripe)).stddev) > 5
    expect(page.locator("#told")).to_have_text(re.compile(r"^10 pictures in [\d.]+\ss$"))
    assert {frame.is_enabled() for frame in frames.all()} == {True}


def test_a_seed_is_told_and_used_again(open_page: Open) -> None:
    page = open_page()
    paint(page, "a blue circle")
    seed = page.locator("#seed-shown").inner_text()
    first = page.locator("#tiles img").evaluate(PIXELS)
    page.get_by_role("button", name="Use this seed again").click()
    expect(page.get_by_label("Seed", exact=True)).to_be_focused()
    expect(page.get_by_label("Seed", exact=True)).to_have_value(seed)
    page.keyboard.press("Control+Enter")
    stage(page, "done")
    assert page.locator("#tiles img").evaluate(PIXELS) == first
    page.get_by_label("Seed", exact=True).fill("")
    paint(page, "a blue circle")
    assert page.locator("#tiles img").evaluate(PIXELS) != first


PIXELS = """async (image) => {
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), {width: 256, height: 256});
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""


def test_what_is_painted_is_told_where_it_is_another_text(open_page: Open, revising: Live) -> None:
    page = open_page(revising)
    page.evaluate(LISTEN)  # it may be told for a moment only
    ask(page, KITTEN, n=3)
    stage(page, "done")
    assert "Painting “a small orange cat”" in page.evaluate("said")
    expect(page.locator("#told")).to_have_text(re.compile(r"^3 pictures of “a small orange cat” in [\d.]+\ss$"))
    page.locator("#tiles .frame").first.click()
    expect(page.locator("#viewer-prompt")).to_have_text(KITTEN)
    expect(page.locator("#viewer-facts")).to_contain_text("Painted asa small orange cat")
    page.get_by_role("button", name="Use its prompt and seed").click()
    expect(page.get_by_label("Prompt")).to_have_value(KITTEN)
    paint(page, CIRCLE)
    expect(page.locator("#told")).to_have_text(re.compile(r"^1 picture in [\d.]+\ss$"))


def test_escape_cancels_and_frees_the_server(open_page: Open, live: Live) -> None:
    page = open_page()
    with live.stopped():
        unfinished(page, live, "a yellow star")
        page.keyboard.press("Escape")
    stage(page, "stopped")
    expect(page.locator("#told")).to_contain_text("Stopped")
    live.wait(lambda: live.in_flight() == 0, "the server still paints")
    paint(page, "a yellow star")


def test_what_is_wrong_is_said_in_words(open_page: Open) -> None:
    page = open_page()
    prompt, generate = page.get_by_label("Prompt"), page.get_by_role("button", name="Generate")
    generate.click()
    expect(page.locator("#prompt-wrong")).to_have_text("Say first what the picture should show.")
    ask(page, "🦆" * 100)
    expect(page.locator("#prompt-wrong")).to_have_text("Prompt must have at most 256 text tokens, got 401.")
    expect(prompt).to_be_focused()
    expect(prompt).to_have_attribute("aria-invalid", "true")
    prompt.fill("a duck")
    expect(page.locator("#prompt-wrong")).to_be_empty()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("9")
    generate.click()
    expect(page.locator("#temperature-wrong")).to_have_text("Temperature must be a number from 0 to 5.")
    page.get_by_role("button", name="Reset all").click()
    page.get_by_label("Top-k").fill("17")  # the model has 16 codes, which only the server knows
    generate.click()
    expect(page.locator("#top_k-wrong")).to_have_text("Top-k must be an integer from 0 to 16, got 17.")
    page.get_by_role("button", name="Reset all").click()
    page.context.set_offline(True)
    generate.click()
    expect(page.locator("#problem")).to_contain_text("The server cannot be reached")
    page.evaluate("document.getElementById('shelf').hidden = false")  # as for a model that lists its things
    page.wait_for_function(  # not below what the model draws, where nobody looks
        """() => document.querySelector("#problem").getBoundingClientRect().bottom
               <= document.getElementById("shelf").getBoundingClientRect().top"""
    )
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").press("Enter")
    stage(page, "done")
    expect(page.locator("#problem")).to_be_hidden()
    expect(generate).to_be_focused()  # as after Cancel, which had the focus meanwhile


def test_on_a_phone_a_failure_is_in_sight(open_page: Open) -> None:
    page = open_page(viewport={"width": 320, "height": 640}, **CALM)
    page.get_by_role("button", name="Settings").click()
    page.evaluate("document.body.style.paddingBottom = '2000px'")  # as below what a model draws
    held: list[Route] = []
    page.route("**/images/generations", lambda route: held.append(route))
    ask(page, "a red apple", n=4)
    stage(page, "painting")
    page.evaluate("document.getElementById('tiles').scrollIntoView()")  # to look at them
    png = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(png, "PNG")
    picture = {"index": 0, "rows": ROWS, "b64_json": base64.b64encode(png.getvalue()).decode()}
    painted = json.dumps({"type": "image_generation.completed", **picture})
    held[0].fulfill(body=f"data: {painted}\n\n", content_type="text/event-stream")  # and no more
    expect(page.locator("#problem")).to_contain_text("The connection broke")
    expect(page.locator("#problem")).to_be_in_viewport(ratio=1)


def test_what_is_wrong_is_heard_where_the_focus_does_not_move(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Prompt").press("Enter")
    said = page.get_by_role("alert").filter(has_text="Say first what the picture should show.")
    expect(said).to_have_id("prompt-wrong")


def test_a_key_is_asked_for_once_where_the_server_wants_one(open_page: Open, guarded: Live) -> None:
    page = open_page(guarded)
    alert, key = page.locator("#problem"), page.get_by_label("API key")
    expect(key).to_be_hidden()
    ask(page, "a red apple")
    expect(alert).to_contain_text("This server asks for a key")
    expect(key).to_be_focused()
    key.fill("open")
    page.keyboard.press("Enter")
    expect(alert).to_contain_text("This key does not fit")
    expect(key).to_be_focused()
    assert complaints(page) == []
    key.fill(KEY)
    page.keyboard.press("Enter")
    stage(page, "done")
    expect(alert).to_be_hidden()
    page.reload()
    paint(page, "a red apple")  # the tab keeps the key
    assert KEY not in guarded.log


def test_the_gallery_survives_a_reload_and_gives_a_deleted_picture_back(open_page: Open) -> None:
    page = open_page()
    paint(page, "a red apple", n=2)
    expect(kept(page)).to_have_count(0)  # they are on the stage
    page.reload()
    expect(kept(page)).to_have_count(2)
    kept(page).nth(1).click()
    viewer = page.get_by_role("dialog")
    expect(viewer).to_contain_text("a red apple")
    with page.expect_download() as download:
        viewer.get_by_role("link", name="Download").click()
    assert re.fullmatch(r"a-red-apple-\d+-1\.png", download.value.suggested_filename)
    with Image.open(download.value.path()) as image:
        assert image.text["Prompt"] == "a red apple"  # type: ignore[attr-defined]
    page.evaluate(LASTING)
    page.keyboard.press("ArrowLeft")
    expect(viewer.get_by_role("button", name="Newer picture")).to_be_disabled()
    viewer.get_by_role("button", name="Delete").click()
    expect(kept(page)).to_have_count(1)
    page.get_by_role("button", name="Undo").press("Enter")
    expect(kept(page)).to_have_count(2)
    expect(page.get_by_label("Prompt")).to_be_focused()
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    expect(kept(page)).to_have_count(0)
    page.reload()
    stage(page, "idle")
    expect(kept(page)).to_have_count(0)


# What a page does after some seconds, such as to forget a deleted picture, is not done.
LASTING = """() => {
    const { setTimeout } = window;
    window.setTimeout = (act, ms, ...rest) => setTimeout(act, ms < 5000 ? ms : 2 ** 31 - 1, ...rest);
}"""
SPY = """() => {
  window.sent = [];
  const original = fetch;
  window.fetch = (path, options) => {
    sent.push([path, Object.fromEntries(options.body)]);
    return original(path, options);
  };
}"""


def test_painting_on_keeps_the_top_rows(open_page: Open) -> None:
    page = open_page(**CALM)
    paint(page, "a red apple")
    page.locator("#tiles .frame").click()
    page.get_by_role("dialog").get_by_role("button", name="Paint on: keep the top").click()
    line = page.get_by_label("Rows to keep, from the top")
    expect(line).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(line).to_have_attribute("aria-valuetext", f"9 of {ROWS} rows")
    box = line.bounding_box()
    assert box
    page.mouse.click(box["x"] + 20, box["y"] + box["height"] * 12 / ROWS)
    expect(page.locator("#kept")).to_have_text(f"12 of {ROWS}")
    page.evaluate(SPY)
    paint(page, "a blue apple", n=2)
    ((path, fields),) = page.evaluate("sent")
    assert path == "v1/images/edits"
    assert {"prompt": "a blue apple", "n": "2", "keep_rows": "12"}.items() <= fields.items()
    expect(page.locator("#tiles .frame:enabled")).to_have_count(2)
    expect(kept(page)).to_have_count(1)
    page.get_by_role("button", name="Remove the picture").click()
    expect(line).to_be_hidden()
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.locator("#prompt-wrong")).to_contain_text("no picture that the browser can open")
    png = io.BytesIO()
    Image.new("RGB", (600, 400), "teal").save(png, "PNG")
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": png.getvalue()})
    expect(line).to_have_attribute("aria-valuetext", f"{ROWS // 2} of {ROWS} rows")


def test_a_phone_needs_no_scrolling_sideways(open_page: Open) -> None:
    page = open_page(**PHONE)
    found = {"empty": widths(page)}
    page.get_by_role("button", name="Settings").click()
    found["settings"] = widths(page)
    page.get_by_role("button", name="Settings").click()
    paint(page, "a red apple " + "x" * 80, n=2)
    found["done"] = widths(page)
    page.locator("#tiles .frame").first.tap()
    expect(page.get_by_role("dialog")).to_be_visible()
    found["viewer"] = widths(page)
    page.get_by_role("dialog").get_by_role("button", name="Paint on: keep the top").tap()
    found["paint on"] = widths(page)
    page.goto("/docs")
    page.get_by_text("POST /generate").wait_for()
    found["docs"] = widths(page)
    assert found == dict.fromkeys(found, (360, 360))


def complaints(page: Page) -> list[str]:
    """What axe finds that is serious or critical."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {node['html']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme, **CALM)
    found = {"empty": complaints(page)}
    paint(page, "a red apple")
    page.reload()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Top-p").fill("7")
    ask(page, "a blue circle", n=2)
    expect(page.locator("#top_p-wrong")).not_to_be_empty()
    page.get_by_label("Top-p").fill("")
    paint(page, "a blue circle", n=2)
    found["done"] = complaints(page)
    page.locator("#tiles .frame").first.click()
    found["viewer"] = complaints(page)
    page.get_by_role("dialog").get_by_role("button", name="Paint on: keep the top").click()
    found["paint on"] = complaints(page)
    page.goto("/docs")
    page.get_by_text("POST /generate").wait_for()
    found["docs"] = complaints(page)
    assert found == {part: [] for part in found}


def test_the_theme_is_a_choice_that_is_kept(open_page: Open) -> None:
    page = open_page(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark mode").click()
    dark = page.evaluate(background)
    assert dark != light
    page.goto("/docs")
    assert page.evaluate(background) == dark
    page.get_by_role("button", name="Dark mode", pressed=True).click()
    assert page.evaluate(background) == light
