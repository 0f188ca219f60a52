"""The application: its routes, its error answers and the demo page. `app.server` runs it.

app = create_app(settings)
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import create_model
from starlette.exceptions import HTTPException
from starlette.routing import Match

import model
from app.http.browsers import Browsers, cross_origin
from app.http.budget import Budget
from app.http.errors import answer, render
from app.http.idempotency import Idempotency
from app.http.jobs import Desks
from app.http.keys import Guard, Keys, read_keys
from app.http.metrics import Metrics
from app.http.middleware import Frontier
from app.http.openapi import Application, left_out
from app.http.paths import Paths
from app.http.proxies import Proxies
from app.http.routes import generate, images, jobs, ops, pictures, things
from app.http.service import Service
from app.http.telemetry import telemetry
from app.jobs.faults import NoStore, StoreFault
from app.pictures.decoders import Decoders
from app.pictures.encode import Threads
from app.pool.worker_pool import WorkerPool
from app.settings import Settings
from app.wording import describe, nearest, shorten
from model.errors import DalleError, InvalidRequest

DEMO = Path(__file__).parents[1] / "demo"
PAGES = {"/": "index.html", "/docs": "docs.html"}
ROUTERS = (generate.router, images.router, jobs.router, pictures.router, ops.router, things.router)
KNOWN = [*PAGES, *(getattr(route, "path", "") for router in ROUTERS for route in router.routes)]
DESCRIPTION = "Text to image with the DALL-E family's method: a prompt in, pictures of 256 x 256 pixels out."


def create_app(settings: Settings, pool: WorkerPool | None = None) -> FastAPI:
    """The application over `pool`, or over a pool of its own. Its lifespan starts and stops the pool's workers.

    Raises what `Models.read` raises, and SettingsError if the API keys cannot be read.
    """
    keys = Keys(known := read_keys(settings))
    pool = pool or WorkerPool(settings)
    repeated = Idempotency(settings.replay_bytes)
    budget = Budget(settings.answer_bytes, settings.send_timeout)
    metrics = Metrics(pool, budget)
    decoders = Decoders(settings.max_pixels)
    desks = Desks(settings, guarded=bool(known))
    sent = telemetry(pool)
    pool.on_end = sent.ended
    service = Service(settings, pool, metrics, Threads(2, "png"), decoders, repeated, budget, desks, sent)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.telemetry.start()
        await service.pool.start()
        try:
            try:
                await service.desks.start(service)
            except NoStore as error:
                service.pool.fatal = error.why  # the server ends, and says this in one line
            yield
        finally:
            await service.desks.close()
            await service.decoders.close()
            await service.pool.stop()
            service.threads.close()
            await service.telemetry.close()

    app = Application(
        title="dalle-server",
        description=DESCRIPTION,
        version=model.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        docs_url=None,  # FastAPI's page loads scripts from other hosts, so /docs is a page of this server
        redoc_url=None,
    )
    app.state.service = service
    app.state.keys = keys
    app.deadline = settings.deadline
    default = pool.models.default
    app.defaults = left_out(settings, default, pool.models.served[default].config)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/demo", StaticFiles(directory=DEMO), name="demo")
    for path, file in PAGES.items():
        app.add_api_route(path, _page(DEMO / file), include_in_schema=False)
    for kind in (DalleError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refusing(metrics))
    if known:
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
    app.add_middleware(Paths, root=settings.root_path.rstrip("/"))
    app.add_middleware(Proxies, trusted=settings.proxies)  # the last one is the outermost
    sent.instrument(app)
    return app


def _page(file: Path) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        moved = request.state.moved
        return RedirectResponse(moved, 307) if moved else FileResponse(file)

    return page


def _refusing(metrics: Metrics) -> Callable[[Request, Exception], Awaitable[Response]]:
    """A function that answers the errors that routes raise, and counts them."""

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = _wrong_query(request, error)
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            route = f"{request.method[:16]} {shorten(request.url.path)}"
            allow = _methods(request)
            near = nearest(request.url.path, KNOWN)
            unknown = f"{route} is not a route; " + (f"did you mean {near}?" if near else "/docs lists the routes")
            what = f"the method must be {allow.replace(', ', ' or ')}, got {route}" if allow else unknown
            error = HTTPException(error.status_code, what, {"Allow": allow} if allow else None)
        if isinstance(error, StoreFault):
            error.tell()
        said = answer(error)
        metrics.error(said.code)
        request.state.log["error"] = said.code
        return render(said, request.url.path)

    return refuse


def _methods(request: Request) -> str:
    """The methods that the routes of this path have, separated by commas. A path may be of several routes."""
    routes = [*request.app.routes, *(route for router in ROUTERS for route in router.routes)]
    found = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted(set().union(*(getattr(route, "methods", None) or () for route in found))))


def _wrong_query(request: Request, error: RequestValidationError) -> InvalidRequest:
    """What is wrong with a parameter in the address. Bodies are checked by `app.http.schemas`."""
    parameters = request.scope["route"].dependant.query_params
    fields: dict[str, Any] = {one.alias: (one.field_info.annotation, one.field_info) for one in parameters}
    fault = dict(error.errors()[0])
    name = str(fault["loc"][-1])
    known: Any = {**fault, "loc": (name,)}
    return InvalidRequest(name, describe(create_model("Query", **fields), known, name))
