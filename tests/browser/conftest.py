"""One headless Chromium, the system's, and one server over a small checkpoint.

Playwright's event loop belongs to the thread that uses it, so the browser ends with the module that asked for it, and
tests elsewhere may run loops of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from app.http.keys import key_hash
from model.checkpoints import save, sums
from model.config import CheckpointConfig, SamplingDefaults, TransformerConfig, VAEConfig, from_preset
from model.gallery import GALLERY, SHEET
from model.things import THINGS
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.vae import VAE
from tests.app.live import Live
from tests.conftest import CAPTIONS, randomise
from tests.revising import with_reviser
from tests.styling import with_styles

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
DEFAULT = Path(__file__).parents[2] / "weights" / "default"
ROWS = 16  # of a picture
KEY = "sesame"
SECONDS = 60  # that the page may take for anything, on a busy machine
REFUSED = "Failed to load resource"  # what Chromium itself says of an answer that is no 200


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "no Chromium on this machine, which the demo page is tested with: apt-get install chromium"
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose pictures have ROWS rows."""
    levels = (4, 4)
    config = CheckpointConfig(
        name="slow",
        licence="Apache-2.0",
        vae=from_preset(VAEConfig, "tiny", image_size=8 * ROWS, levels=levels),
        transformer=from_preset(
            TransformerConfig, "tiny", text_vocab=512, image_vocab=16, code_levels=levels, grid=ROWS
        ),
        sampling=SamplingDefaults(temperature=0.9, guidance=2.0),
    )
    assert isinstance(config.vae, VAEConfig)
    assert isinstance(config.transformer, TransformerConfig)
    vae, transformer = VAE(config.vae), Transformer(config.transformer)
    randomise(vae, seed=1)
    randomise(transformer, seed=2)
    folder = tmp_path_factory.mktemp("browser")
    save(folder / "slow", config, Tokenizer.train(CAPTIONS * 2, vocab_size=512), vae, transformer, dtype=torch.float32)
    return folder / "slow"


@pytest.fixture(scope="module")
def live(weights: Path) -> Iterator[Live]:
    """A ready server that paints two pictures at a time, so that a request for several lasts."""
    with Live(weights, weights.with_name("log"), slots=2) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def guarded(weights: Path) -> Iterator[Live]:
    """A ready server that wants the API key KEY."""
    with Live(weights, weights.with_name("guarded-log"), api_keys=key_hash(KEY)) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def revising(weights: Path) -> Iterator[Live]:
    """A ready server over a checkpoint with a reviser."""
    with Live(with_reviser(weights, weights.with_name("revising")), weights.with_name("revising-log")) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def styled(weights: Path) -> Iterator[Live]:
    """A ready server over a checkpoint with two styles, and with the things and the gallery of weights/default."""
    folder = with_styles(weights, weights.with_name("styled"))
    for name in (THINGS, GALLERY, SHEET):
        sums.write_file(folder / name, (DEFAULT / name).read_bytes())
    sums.write(folder)
    with Live(folder, weights.with_name("styled-log")) as server:
        yield server.ready()


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, live: Live) -> Iterator[Open]:
    """open_page(server=live, **options of a browser context): the demo page in a browser profile of its own.

    Afterwards nothing may have gone wrong on it, and nothing may have been asked of another origin.
    """
    wrong: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(REFUSED):
            wrong.append(message.text)

    contexts = []

    def begin(server: Live = live, **options: object) -> Page:
        context = browser.new_context(base_url=server.url, **{"viewport": {"width": 1280, "height": 800}, **options})  # type: ignore[arg-type]
        context.set_default_timeout(1000 * SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", on_console)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if local(server, request.url) else wrong.append(request.url))
        page.goto("/")
        return page

    def local(server: Live, url: str) -> bool:
        return url.startswith((server.url + "/", "blob:" + server.url + "/", "data:"))

    yield begin
    for context in contexts:
        context.close()
    assert not wrong
