"""The wire models of the OpenAI Images API: what it may be asked, and what it answers.

A value that this server cannot honour is not in its field's type, so it is refused with the field's name. Fields that
only advise (quality, style, moderation, user ...) are accepted and change nothing. Every field may be null, as that
API has it. The fields of `Sampling` are ours: `extra_body` of the openai package sends them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.http.schemas import KeepRows, Sampling, Text
from app.settings import MAX_IMAGES

MAX_PARTIALS = 3  # unfinished pictures that the API can ask for
Label = Annotated[str, Field(max_length=512)] | None


class ImagesRequest(Sampling):
    """The body of POST /v1/images/generations."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "a red apple", "n": 2, "seed": 1}]})

    prompt: Text = Field(description="What the pictures shall show. Not blank.")
    model: Label = Field(None, description="The served model's id, as GET /v1/models tells it.")
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = Field(None, description="How many pictures; 1 if left out.")
    size: Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = Field(
        None, description='"auto" (as painted), or a square from that size up to "1024x1024", enlarged by Lanczos.'
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(None, description="png if left out.")
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Of jpeg and webp: their quality, 100 if left out. A png is always whole: 100."
    )
    response_format: Literal["b64_json"] | None = Field(None, description="The server keeps no pictures to link to.")
    background: Literal["auto", "opaque"] | None = Field(None, description="Pictures have no transparent parts.")
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIALS)] | None = Field(
        None, description="Of a stream: unfinished pictures of each picture, after equal shares of its rows."
    )
    every_rows: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Of a stream, instead of partial_images: an unfinished picture after every so many rows."
    )

    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        None, description="Accepted; there is one quality."
    )
    style: Literal["vivid", "natural"] | None = Field(None, description="Accepted, without effect.")
    moderation: Literal["auto", "low"] | None = Field(None, description="Accepted, without effect.")
    user: Label = Field(None, description="Accepted, without effect.")
    safety_identifier: Label = Field(None, description="Accepted, without effect.")

    complexity: None = Field(None, description="Not supported.")
    frame_count: None = Field(None, description="Not supported.")
    frame_duration_ms: None = Field(None, description="Not supported.")
    svg: None = Field(None, description="Not supported.")


class EditsRequest(ImagesRequest):
    """The fields of POST /v1/images/edits, beside its files `image` and `mask`."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="Accepted; what is kept is always what the model's code makes of it."
    )
    keep_rows: KeepRows = Field(
        None, description="Instead of a mask: how many of the image's top rows of cells are kept."
    )


class InputDetails(BaseModel):
    """What was read."""

    text_tokens: int
    image_tokens: int = Field(description="Cells of the sent picture that were kept.")


class OutputDetails(BaseModel):
    """What was drawn."""

    image_tokens: int
    text_tokens: int = 0


class Usage(BaseModel):
    """Tokens read and drawn."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int

    @classmethod
    def of(cls, text: int, kept: int, drawn: int, written: int = 0) -> Usage:
        """text: tokens of the prompt; kept: of a sent picture; drawn: of all the pictures that were painted; written:
        those that were drawn to complete or revise the prompt."""
        return cls(
            input_tokens=text + kept,
            input_tokens_details=InputDetails(text_tokens=text, image_tokens=kept),
            output_tokens=drawn + written,
            output_tokens_details=OutputDetails(image_tokens=drawn, text_tokens=written),
            total_tokens=text + kept + drawn + written,
        )


class Image(BaseModel):
    """One picture. seed and index, sent with the same prompt, paint it again."""

    b64_json: str
    seed: int
    index: int
    score: float | None = Field(
        None,
        description="With best_of: how well it fits the prompt, by the cosine of the checkpoint's CLIP; without one, "
        "by how many nats a token the prompt made it likelier.",
    )
    revised_prompt: str | None = Field(None, description="The text that was painted, where it is another.")


class ImagesResponse(BaseModel):
    """The pictures."""

    created: int
    data: list[Image]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "jpeg", "webp"]
    size: str
    usage: Usage


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The field at fault.")
    code: str


class OpenAIError(BaseModel):
    """What every refusal and failure under /v1/ answers with."""

    error: ErrorObject


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "dalle-server"


class ModelList(BaseModel):
    """The models that are served: one."""

    object: Literal["list"] = "list"
    data: list[Model]
