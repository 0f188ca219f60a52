"""GET /pictures/{name}: a stored picture, by the address that an answer tells."""

from __future__ import annotations

import contextlib
import re
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.http.errors import Answer, render
from app.http.schemas import ErrorBody
from app.http.service import Shared
from app.jobs.faults import StoreFault

router = APIRouter()
NAME = re.compile(r"[A-Za-z0-9_-]{20,60}\.(png|jpeg|webp)")
RANGE = re.compile(r"bytes=([0-9]{0,12})-([0-9]{0,12})")


@router.get(
    "/pictures/{name}", summary="A stored picture", response_class=Response,
    responses={200: {"content": {"image/*": {}}}, 206: {"description": "The part that Range asks for."},
               304: {"description": "The client has it already, as If-None-Match tells."},
               404: {"description": "There is none, or it is not the client's.", "model": ErrorBody},
               416: {"description": "The picture ends before the part that Range asks for."},
               503: {"description": "The store cannot be reached now. See Retry-After.", "model": ErrorBody}},
)  # fmt: skip
async def picture(name: str, request: Request, service: Shared) -> Response:
    """Send the file. Its name cannot be guessed. Where API keys are needed, its owner may fetch it, and whoever
    has a signed link.
    """
    none = Answer(404, "not_found", "there is no such picture; it may have expired")
    if not NAME.fullmatch(name):
        return render(none)
    desk = await service.desks.open(service)
    found = await desk.calls.database(desk.store.picture, name)
    if found is None or not desk.may_fetch(request, found):
        return render(none)
    kind = name.rpartition(".")[2]
    left = max(0, int(found.created + desk.keep.seconds - time.time()))
    headers = {
        "ETag": f'"{name}"',
        "Cache-Control": f"{'private' if desk.guarded else 'public'}, max-age={left}, immutable",
        "Accept-Ranges": "bytes",
        "Cross-Origin-Resource-Policy": "cross-origin",  # a page of another origin may show it, if it has the address
        "Content-Disposition": f'inline; filename="{name[:8]}.{kind}"',
    }
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if known & {headers["ETag"], "*"}:  # a proxy that compresses makes the tag a weak one
        return Response(status_code=304, headers=headers)
    if request.state.head:
        return Response(headers={**headers, "Content-Length": str(found.bytes)}, media_type=f"image/{kind}")
    await request.state.claim.take(found.bytes, request.state.began + service.settings.deadline)
    data = await desk.calls.files(desk.store.folder.read, name)
    if data is None:
        return render(none)
    if found.fetched is None:
        with contextlib.suppress(StoreFault):  # a database that is full keeps no picture back
            await desk.calls.database(desk.store.fetched, [name])
    same = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    if same and (asked := RANGE.fullmatch(request.headers.get("range", ""))) and any(asked.groups()):
        begin, end = asked.groups()
        first = int(begin) if begin else max(0, len(data) - int(end))
        last = min(int(end), len(data) - 1) if begin and end else len(data) - 1
        if first > last:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Response(data[first : last + 1], 206, headers, f"image/{kind}")
    return Response(data, headers=headers, media_type=f"image/{kind}")
