"""The application: its routes, its error answers and the demo page. `app.server` runs it.

app = create_app(settings)
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import model
from app.http.browsers import Browsers, cross_origin
from app.http.budget import Budget
from app.http.errors import answer, render
from app.http.idempotency import Idempotency
from app.http.jobs import Desks
from app.http.keys import Guard, Keys, read_hashes
from app.http.metrics import Metrics
from app.http.middleware import Frontier
from app.http.openapi import Application
from app.http.proxies import Proxies
from app.http.routes import generate, images, jobs, ops, pictures, things
from app.http.service import Service
from app.pictures.decoders import Decoders
from app.pictures.encode import Threads
from app.pool.worker_pool import WorkerPool
from app.settings import Settings
from app.wording import shorten
from model.errors import DalleError

DEMO = Path(__file__).parents[1] / "demo"
DESCRIPTION = "Text to image with the DALL-E family's method: a prompt in, pictures of 256 x 256 pixels out."


def create_app(settings: Settings, pool: WorkerPool | None = None) -> FastAPI:
    """The application over `pool`, or over a pool of its own. Its lifespan starts and stops the pool's workers.

    Raises what `Models.read` raises, and SettingsError if the API keys cannot be read.
    """
    keys = Keys(hashes := read_hashes(settings))
    pool = pool or WorkerPool(settings)
    repeated = Idempotency(settings.replay_bytes)
    budget = Budget(settings.answer_bytes, settings.send_timeout)
    metrics = Metrics(pool, budget)
    decoders = Decoders(settings.max_pixels)
    desks = Desks(settings, guarded=bool(hashes))
    service = Service(settings, pool, metrics, Threads(2, "png"), decoders, repeated, budget, desks)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.pool.start()
        try:
            await service.desks.start(service)
            yield
        finally:
            await service.desks.close()
            await service.decoders.close()
            await service.pool.stop()
            service.threads.close()

    app = Application(
        title="dalle-server",
        description=DESCRIPTION,
        version=model.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's page loads scripts from other hosts, so /docs is a page of this server
        redoc_url=None,
    )
    app.state.service = service
    app.state.keys = keys
    app.deadline = settings.deadline
    app.include_router(generate.router)
    app.include_router(images.router)
    app.include_router(ops.router)
    app.include_router(things.router)
    app.include_router(jobs.router)
    app.include_router(pictures.router)
    app.mount("/demo", StaticFiles(directory=DEMO), name="demo")
    for path, file in (("/", "index.html"), ("/docs", "docs.html")):
        app.add_api_route(path, _page(DEMO / file), include_in_schema=False)
    for kind in (DalleError, HTTPException):
        app.add_exception_handler(kind, _refusing(metrics))
    if hashes:
        app.keyed = True
        app.add_middleware(Guard, keys=keys)
    else:
        names = (settings.host, socket.gethostname())
        app.add_middleware(Browsers, origins=settings.origins, hosts=settings.hosts, own_names=names)
    app.add_middleware(
        Frontier,
        metrics=metrics,
        cross_origin=cross_origin(settings.origins),
        budget=budget,
        send_timeout=settings.send_timeout,
    )
    app.add_middleware(Proxies, trusted=settings.proxies)  # the last one is the outermost
    return app


def _page(file: Path) -> Callable[[], Awaitable[FileResponse]]:
    async def page() -> FileResponse:
        return FileResponse(file)

    return page


def _refusing(metrics: Metrics) -> Callable[[Request, Exception], Awaitable[Response]]:
    """A function that answers the errors that routes raise, and counts them."""

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            route = f"{request.method[:16]} {shorten(request.url.path)}"
            allow = (error.headers or {}).get("Allow")
            unknown = f"{route} is not a route; /docs lists the routes"
            what = f"the method must be {allow}, got {route}" if allow else unknown
            error = HTTPException(error.status_code, what, error.headers)
        said = answer(error)
        metrics.error(said.code)
        request.state.log["error"] = said.code
        return render(said, request.url.path)

    return refuse
