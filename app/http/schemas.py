"""What a client may send and gets back: the wire models, with every limit declared in its field.

`read(Model, values)` checks strictly ("3" is no integer, and neither is true) and says what is wrong in one line that
names the field, the value found and what is allowed; the wording is that of `app.wording`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from app.settings import MAX_IMAGES
from app.wording import NOT_BLANK, alternatives, describe, properties
from model.config import Guidance, Temperature, TopK, TopP
from model.errors import InvalidRequest
from model.inference.requests import MAX_INDEX

MAX_SAMPLES = 16  # pictures of which the best are chosen
MAX_CHARACTERS = 32_000  # of a prompt; the tokenizer's limit is much lower, and needs the text to be counted
MAX_DIGITS = 100  # characters of a number in a form
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")  # one way only to read any string

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS, pattern=NOT_BLANK)]
KeepRows = Annotated[int, Field(ge=1)] | None  # the grid, which is the checkpoint's, bounds it
M = TypeVar("M", bound=BaseModel)


class Sampling(BaseModel):
    """How the image tokens are drawn; what is left out, or null, is the model's own default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="The same seed gives the same pictures; where it is left out, a random one is taken and told."
    )
    temperature: Temperature | None = Field(
        None, description="Above 1 is more varied, below 1 more usual; 0 always takes the likeliest token."
    )
    top_k: TopK | None = Field(None, description="Keep only the k likeliest tokens; 0 keeps all.")
    top_p: TopP | None = Field(None, description="Keep only the likeliest tokens that together reach this probability.")
    guidance: Guidance | None = Field(
        None, description="Scale of classifier-free guidance: higher follows the text more closely; 1 is off."
    )
    index: Annotated[int, Field(ge=0, lt=MAX_INDEX - MAX_SAMPLES)] | None = Field(
        None, description="Index of the first picture, 0 if left out: seed and index together name a picture."
    )
    best_of: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = Field(
        None, description="Paint so many pictures and return the ones that fit the text best, the best one first."
    )
    complete: bool | None = Field(
        None, description="Let the model complete the text as a caption first; the answer tells the text painted."
    )
    revise: bool | None = Field(
        None,
        description="Let the model first say the text in words that it was taught; the answer tells the text painted. "
        "Left out: true, if the model can, the text is not completed and the server does not say otherwise.",
    )
    truncate: bool | None = Field(None, description="Cut a text with too many tokens instead of refusing it.")
    embed_prompt: bool | None = Field(
        None, description="Write the text itself into the PNG's text chunks, not only its SHA-256."
    )


class GenerateRequest(Sampling):
    """The body of POST /generate, as JSON or as a form."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "a red apple", "num_images": 4, "seed": 1}]},
    )

    text: Text = Field(description="What the pictures shall show. Not blank.")
    num_images: int = Field(1, ge=1, le=MAX_IMAGES, description="How many pictures.")
    keep_rows: KeepRows = Field(
        None, description="With the file `image`: how many of its top rows of cells are kept; the rest is painted."
    )


class Pictures(RootModel[list[str]]):
    """PNG files, each in base64."""

    model_config = ConfigDict(json_schema_extra={"examples": [["iVBORw0KGgoAAAANSUhEUgAAAQAAAAEACAIAAADTED8x..."]]})


class ErrorBody(BaseModel):
    """What every refusal and failure answers with."""

    Error: str = Field(
        description="One line for a person.", examples=["num_images: 11, and it must be an integer from 1 to 10"]
    )


def read(model: type[M], values: Mapping[str, Any]) -> M:
    """`values` as a `model`. Raises InvalidRequest naming every field at fault, the value found and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [describe(model, fault) for fault in faults[:8]]
        raise InvalidRequest(str(faults[0]["loc"][0]) if faults[0]["loc"] else "body", "; ".join(lines)) from None


def from_strings(model: type[BaseModel], strings: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a form, numbers and booleans read exactly; what is none stays a string, for `read` to refuse."""
    values: dict[str, Any] = {}
    for name, string in strings.items():
        kinds = {part.get("type") for part in alternatives(properties(model).get(name, {}))}
        if len(string) > MAX_DIGITS:
            values[name] = string
        elif "integer" in kinds and INTEGER.fullmatch(string):
            values[name] = int(string)
        elif "number" in kinds and NUMBER.fullmatch(string):
            values[name] = float(string)
        elif "boolean" in kinds and string in ("true", "false"):
            values[name] = string == "true"
        else:
            values[name] = string
    return values


def form_schema(model: type[BaseModel], **files: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a form. files: of its files, by name. A form has no null: a field is given or left out."""
    fields: dict[str, Any] = {}
    for name, field in properties(model).items():
        kinds = [kind for kind in alternatives(field) if kind.get("type") != "null"]
        if kinds:
            fields[name] = {**kinds[0], **{key: of for key, of in field.items() if key != "anyOf" and of is not None}}
    return {**model.model_json_schema(), "properties": fields | files}
