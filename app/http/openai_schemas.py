"""The wire models of the OpenAI Images API: its requests and its answers.

The type of a field allows only what this server can honour. Any other value is refused with the field's name. Fields
that only advise (quality, style, moderation, user ...) are accepted and change nothing. Every field may be null, as in
OpenAI's API. The fields of `Sampling` are additions of this server. `extra_body` of the openai package sends them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.http.schemas import KeepRows, Label, MissingStyle, PromptClosest, PromptFit, Sampling, Text
from app.settings import MAX_IMAGES
from model.styles import AUTO

MAX_PARTIALS = 3  # unfinished pictures of one picture, as in OpenAI's API
OWN_STYLES = ("vivid", "natural")  # of OpenAI's API


class ImagesRequest(Sampling):
    """The body of POST /v1/images/generations."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "a red apple", "n": 2, "seed": 1}]})

    prompt: Text = Field(description="What the pictures should show. It must not be blank.")
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = Field(None, description="How many pictures. Left out: 1.")
    size: Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = Field(
        None,
        description='"auto" is the size that the model paints. A larger square, up to "1024x1024", is enlarged.',
        json_schema_extra={"form": "auto or a square such as 512x512"},
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(None, description="Left out: png.")
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="The quality of a jpeg or webp. Left out: 100. A png loses nothing, so it takes only 100."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="url: the answer has addresses of the pictures instead of files. Left out: b64_json."
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Pictures have no transparent parts.")
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIALS)] | None = Field(
        None,
        description="In a stream: how many unfinished pictures to send of each picture, after equal shares of rows.",
    )
    every_rows: Annotated[int, Field(ge=1)] | None = Field(
        None, description="In a stream, instead of partial_images: send an unfinished picture after every so many rows."
    )

    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = Field(
        None, description="Accepted, without effect. There is one quality."
    )
    style: Annotated[str, Field(min_length=1, max_length=32)] | None = Field(
        None,
        description="One of the model's styles, as GET /v1/models tells them. It is taken where it knows the thing. "
        "auto, vivid, natural, or left out: the pictures of a reworded prompt go round the styles that know its thing.",
    )
    moderation: Literal["auto", "low"] | None = Field(None, description="Accepted, without effect.")
    user: Label = Field(None, description="Accepted, without effect.")
    safety_identifier: Label = Field(None, description="Accepted, without effect.")

    complexity: None = Field(None, description="Not supported.")
    frame_count: None = Field(None, description="Not supported.")
    frame_duration_ms: None = Field(None, description="Not supported.")
    svg: None = Field(None, description="Not supported.")

    @property
    def wanted_style(self) -> str:
        """The name of a style, or "auto", which OpenAI's own values mean too."""
        return AUTO if self.style in OWN_STYLES else self.style or AUTO


class EditsRequest(ImagesRequest):
    """The fields of POST /v1/images/edits. Its files are `image` and `mask`."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="Accepted, without effect. Kept cells are always shown as the model's tokens say them."
    )
    keep_rows: KeepRows = Field(
        None, description="Instead of a mask: how many of the image's top rows of cells are kept."
    )


class VariationsRequest(ImagesRequest):
    """The fields of POST /v1/images/variations. Its file is `image`."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    prompt: Text = Field("", description="What the variations should show. Left out: what the picture begins.")
    strength: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Share of the picture's rows, from the bottom, that are painted anew. Left out: 0.5."
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
        """Counted in tokens. text: of the prompt. kept: of the picture that was sent. drawn: of all pictures that were
        painted. written: those that the model wrote to complete or revise the prompt."""
        return cls(
            input_tokens=text + kept,
            input_tokens_details=InputDetails(text_tokens=text, image_tokens=kept),
            output_tokens=drawn + written,
            output_tokens_details=OutputDetails(image_tokens=drawn, text_tokens=written),
            total_tokens=text + kept + drawn + written,
        )


class Image(BaseModel):
    """One picture. A request with its seed, its index and the same prompt paints it again."""

    b64_json: str | None = Field(None, description="The file in base64.")
    url: str | None = Field(None, description="Instead of b64_json: where the file is, for some days.")
    seed: int
    index: int
    score: float | None = Field(
        None,
        description="With best_of: how well the picture fits the prompt. It is the cosine of the checkpoint's CLIP, or "
        "without a CLIP how many nats a token the prompt makes the picture likelier.",
    )
    revised_prompt: str | None = Field(None, description="The text that was painted, if it is not the prompt.")
    style: str | None = Field(None, description="The style that it was painted in, if the model has several.")


class ImagesResponse(BaseModel):
    """The pictures."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "created": 1_700_000_000,
        "data": [{"b64_json": "iVBORw0KGgo...", "seed": 7, "index": 0, "revised_prompt": "a cat", "style": "flat"}],
        "background": "opaque", "output_format": "png", "size": "256x256",
        "usage": {
            "input_tokens": 5, "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
            "output_tokens": 1030, "output_tokens_details": {"image_tokens": 1024, "text_tokens": 6},
            "total_tokens": 1035,
        },
        "prompt_fit": "near",
    }]})  # fmt: skip

    created: int
    data: list[Image]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "jpeg", "webp"]
    size: str
    usage: Usage
    prompt_fit: PromptFit = None
    prompt_closest: PromptClosest = None
    missing_style: MissingStyle = None


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The field at fault.")
    code: str


class OpenAIError(BaseModel):
    """The body of every answer under /v1/ that refuses a request or says that it failed."""

    error: ErrorObject


class ModelSampling(BaseModel):
    """How a model draws tokens, where a request does not say it."""

    temperature: float
    top_k: int
    top_p: float
    guidance: float


class ModelStyle(BaseModel):
    """A style of a model."""

    name: str = Field(description="The value of `style` in a request.")
    things: int | None = Field(None, description="How many things it knows. Left out: all that the model knows.")


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "dalle-server"
    root: str | None = Field(None, description="If this id is an alias: the id of its model.")
    styles: list[ModelStyle] | None = Field(
        None, description="Its styles, if it has any. The first one is painted where no other knows the thing."
    )
    sampling: ModelSampling | None = Field(None, description="Its defaults of these fields of a request.")


class ModelList(BaseModel):
    """The models that are served, the default one first, then the aliases."""

    object: Literal["list"] = "list"
    data: list[Model]
