"""What the served model paints: GET /things searches the list of things, GET /gallery tells of its sample pictures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from app.http.errors import Answer, render
from app.http.schemas import ErrorBody
from app.http.service import Shared

router = APIRouter()
Asked = Annotated[
    str | None, Query(alias="model", max_length=512, description="A model's id. Left out: the default model.")
]
NO_MODEL: dict[int | str, dict[str, Any]] = {
    404: {"description": "The server has no model of this id.", "model": ErrorBody}
}


class OneThing(BaseModel):
    """A thing that the model paints. name: its caption. group: "animal", "food" ..."""

    name: str
    group: str


class FoundThings(BaseModel):
    """The first things that were found."""

    total: int = Field(description="How many were found. 0 without a search: the checkpoint has no list.")
    things: list[OneThing]


class Shown(BaseModel):
    """A picture of the gallery."""

    text: str
    kind: str


class ShownPictures(BaseModel):
    """The gallery."""

    columns: int = Field(description="Squares in a row of /gallery.webp.")
    pictures: list[Shown] = Field(description="In the order of the sheet, row by row.")


@router.get("/things", summary="What the model paints", response_model=FoundThings, responses=NO_MODEL)
async def things(
    service: Shared,
    q: Annotated[str, Query(max_length=64, description="Beginnings of words that a thing's names must have.")] = "",
    limit: Annotated[int, Query(ge=1, le=2000, description="How many things at most.")] = 60,
    model: Asked = None,
) -> FoundThings:
    """Things with the words in their name come first, then those whose other names and kinds have them."""
    found = service.checkpoint(model).things.search(q)
    shown = [OneThing(name=thing.name, group=thing.group) for thing in found[:limit]]
    return FoundThings(total=len(found), things=shown)


@router.get("/gallery", summary="Sample pictures of the model", response_model=ShownPictures, responses=NO_MODEL)
async def gallery(service: Shared, model: Asked = None) -> ShownPictures:
    """Tell what the sample pictures show. The list is empty if the checkpoint has no gallery."""
    found = service.checkpoint(model).gallery
    if found is None:
        return ShownPictures(columns=1, pictures=[])
    shown = [Shown(text=example.text, kind=example.kind) for example in found.pictures]
    return ShownPictures(columns=found.columns, pictures=shown)


@router.get(
    "/gallery.webp", summary="The sheet of the sample pictures", response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}},
        404: {"description": "There is none, or no model of this id.", "model": ErrorBody},
    },
)  # fmt: skip
async def sheet(service: Shared, model: Asked = None) -> Response:
    """One WebP of equal squares; GET /gallery says what they show."""
    found = service.checkpoint(model).gallery
    if found is None:
        return render(Answer(404, "not_found", "this checkpoint has no gallery"))
    return Response(found.sheet, media_type="image/webp", headers={"Cache-Control": "no-cache"})
