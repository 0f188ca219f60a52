"""The wire models: what a client may send and what it gets back. Every limit is declared in its field.

`read(Model, values)` checks strictly: neither "3" nor true is an integer. It says what is wrong in one line that names
the field, what the field must be and what it got. The words are those of `app.wording`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from app.settings import MAX_IMAGES
from app.wording import NOT_BLANK, alternatives, describe, path, properties
from model.config import Guidance, Temperature, TopK, TopP
from model.errors import InvalidRequest
from model.inference.requests import MAX_INDEX
from model.styles import AUTO

MAX_SAMPLES = 16  # pictures of which the best are chosen
MAX_CHARACTERS = 32_000  # of a prompt; the limit of tokens is much lower, but counting tokens takes time
MAX_DIGITS = 100  # characters of a number in a form
BOOLEANS = {"true": True, "false": False, "on": True}  # of a form: True as Python writes it, and a ticked checkbox
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")  # without backtracking

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS, pattern=NOT_BLANK)]
KeepRows = Annotated[int, Field(ge=1)] | None  # the upper bound is the checkpoint's grid
Label = Annotated[str, Field(max_length=512)] | None
# Of answers.
PromptFit = Annotated[
    Literal["known", "near", "unknown"] | None,
    Field(description="How well the painted text says the prompt, if a reviser read it."),
]
PromptClosest = Annotated[
    str | None, Field(description="For an unknown prompt: the nearest thing that the model knows.")
]
MissingStyle = Annotated[
    str | None,
    Field(description="The style that was asked for, if it does not know what is painted. Another one is taken."),
]
M = TypeVar("M", bound=BaseModel)


class Sampling(BaseModel):
    """How the image tokens are drawn. A field that is left out or null takes the model's own default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="The same seed gives the same pictures. Left out: a random seed, which the answer tells."
    )
    temperature: Temperature | None = Field(
        None, description="Above 1 is more varied, below 1 more usual; 0 always takes the likeliest token."
    )
    top_k: TopK | None = Field(None, description="Keep only the k likeliest tokens; 0 keeps all.")
    top_p: TopP | None = Field(None, description="Keep only the likeliest tokens that together reach this probability.")
    filter_thres: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="In place of top_k, as DALLE-pytorch has it: keep (1 - filter_thres) of all columns, those of the "
        "text counted too.",
    )
    guidance: Guidance | None = Field(
        None, description="Scale of classifier-free guidance: higher follows the text more closely; 1 is off."
    )
    index: Annotated[int, Field(ge=0, lt=MAX_INDEX - MAX_SAMPLES)] | None = Field(
        None, description="Index of the first picture. Left out: 0. Seed and index together name a picture."
    )
    best_of: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = Field(
        None, description="Paint so many pictures and return those that fit the text best, the best one first."
    )
    complete: bool | None = Field(
        None, description="The model first completes the text as a caption. The answer tells the text that was painted."
    )
    revise: bool | None = Field(
        None,
        description="The model first rewords the text into a caption as it was taught. The answer tells the text that "
        "was painted. Left out: true, unless the text is completed, or the model has no reviser, or the server turns "
        "it off.",
    )
    model: Label = Field(
        None, description="Which model paints, by its id in GET /v1/models. Left out: the server's default one."
    )
    style: Annotated[str, Field(min_length=1, max_length=32)] | None = Field(
        None,
        description="One of the model's styles, as GET /v1/models tells them. It is taken where it knows the thing. "
        "auto, or left out: the pictures of a reworded text go round the styles that know its thing.",
    )
    on_unknown: Literal["paint", "refuse"] | None = Field(
        None,
        description="A text that the reviser does not know: paint, and the answer says so, or refuse. Left out: the "
        "server's setting.",
    )
    truncate: bool | None = Field(None, description="Cut a text with too many tokens instead of refusing it.")
    embed_prompt: bool | None = Field(
        None, description="Write the text into the PNG's text chunks. Otherwise they hold only its SHA-256."
    )

    @property
    def wanted_style(self) -> str:
        """The name of a style, or "auto"."""
        return self.style or AUTO


class GenerateRequest(Sampling):
    """The body of POST /generate, as JSON or as a form."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "a red apple", "num_images": 4, "seed": 1}]},
    )

    text: Text = Field(description="What the pictures should show. It must not be blank.")
    num_images: int = Field(1, ge=1, le=MAX_IMAGES, description="How many pictures.")
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="url: the answer lists addresses instead of files. Left out: files in base64."
    )
    keep_rows: KeepRows = Field(
        None, description="With the file `image`: how many of its top rows of cells are kept. The rest is painted."
    )


class Pictures(RootModel[list[str]]):
    """PNG files, each in base64."""

    model_config = ConfigDict(json_schema_extra={"examples": [["iVBORw0KGgoAAAANSUhEUgAAAQAAAAEACAIAAADTED8x..."]]})


class ErrorBody(BaseModel):
    """The body of every answer that refuses a request or says that it failed."""

    Error: str = Field(
        description="One line for a person.", examples=["num_images must be an integer from 1 to 10, got 11"]
    )


def read(model: type[M], values: Mapping[str, Any]) -> M:
    """`values` as a `model`. Raises InvalidRequest, which says of every wrong field what it must be and what it got."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [describe(model, fault) for fault in faults[:8]]
        raise InvalidRequest(path(faults[0]["loc"]), "; ".join(lines)) from None


def from_strings(model: type[BaseModel], strings: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a form, with their numbers and booleans read exactly.

    A string that should be a number or a boolean and is not stays a string. `read` refuses it. A blank one is left out
    if the field need not be sent, because a page's form sends every field.
    """
    values: dict[str, Any] = {}
    for name, string in strings.items():
        kinds = {part.get("type") for part in alternatives(properties(model).get(name, {}))}
        field = model.model_fields.get(name)
        if field is not None and not field.is_required() and not string.strip(" "):
            continue
        if len(string) > MAX_DIGITS:
            values[name] = string
        elif "integer" in kinds and INTEGER.fullmatch(string):
            values[name] = int(string)
        elif "number" in kinds and NUMBER.fullmatch(string):
            values[name] = float(string)
        elif "boolean" in kinds and string.lower() in BOOLEANS:
            values[name] = BOOLEANS[string.lower()]
        else:
            values[name] = string
    return values


def form_schema(model: type[BaseModel], **files: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a form. files: the schemas of its files, by name. Null is no value in a form."""
    fields: dict[str, Any] = {}
    for name, field in properties(model).items():
        kinds = [kind for kind in alternatives(field) if kind.get("type") != "null"]
        if kinds:
            fields[name] = {**kinds[0], **{key: of for key, of in field.items() if key != "anyOf" and of is not None}}
    return {**model.model_json_schema(), "properties": fields | files}
