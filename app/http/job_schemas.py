"""The wire models of jobs: what a client may ask of /v1/jobs, and what it gets back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.http.schemas import KeepRows, MissingStyle, PromptClosest, PromptFit, Sampling
from app.jobs.rows import State
from app.settings import MAX_IMAGES
from app.wording import NOT_BLANK

MAX_PICTURES = 1000  # of a job
MAX_PROMPTS = 100
MAX_SECONDS = 30 * 86_400
URL_CHARACTERS = 2000
# Of a text. A model reads 256 tokens, which are a third of that. Every answer about a job repeats its texts.
TEXT_CHARACTERS = 4000

Text = Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS, pattern=NOT_BLANK)]


class Hook(BaseModel):
    """The address that is told of the end of a job, as the Standard Webhooks specification says."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: Annotated[str, Field(min_length=1, max_length=URL_CHARACTERS)] = Field(
        description="An https address that leads to the public internet."
    )
    secret: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        description="whsec_ and 24 to 64 bytes in base64. It signs the messages."
    )


class JobRequest(Sampling):
    """The body of POST /v1/jobs, as JSON, or as a form with an image."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompts": ["a red apple", "a cat"], "count": 50, "seed": 1}]}
    )

    text: Text | None = Field(None, description="What the pictures should show. Instead of prompts.")
    prompts: Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)] | None = Field(
        None,
        description="Several texts. Each gets `count` pictures.",
        json_schema_extra={"form": f"a list of 1 to {MAX_PROMPTS} texts"},
    )
    count: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = Field(
        None, description=f"How many pictures of each text. All together at most {MAX_PICTURES}. Left out: num_images."
    )
    num_images: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = Field(
        None, description="As for /generate: another name for a small count. Left out: 1."
    )
    keep_rows: KeepRows = Field(
        None, description="With the file `image`: how many of its top rows of cells are kept. The rest is painted."
    )
    time_limit: Annotated[int, Field(ge=1, le=MAX_SECONDS)] | None = Field(
        None, description="Seconds after which the job is painted no further, and has expired. Left out: none."
    )
    webhook: Hook | None = Field(
        None,
        description="Where the end of the job is told. Left out: the webhook of the API key, if it has one.",
        json_schema_extra={"form": "an object with url and secret"},
    )


class JobPicture(BaseModel):
    """A finished picture of a job."""

    number: int = Field(description="Its place in the job, 0 for the first.")
    prompt: int = Field(description="The place of its text among the job's texts.")
    url: str = Field(description="Where it is, until the job expires. Signed for an hour where API keys are needed.")
    text: str = Field(description="The text that was painted.")
    seed: int
    index: int
    style: str | None = None
    score: float | None = None
    prompt_fit: PromptFit = None
    prompt_closest: PromptClosest = None
    missing_style: MissingStyle = None


class JobError(BaseModel):
    """Why a job failed. field: the wrong field, if there is one."""

    message: str
    type: str = "DalleError"
    field: str | None = None


class JobAnswer(BaseModel):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    state: State
    prompts: list[str]
    created_at: float = Field(description="Seconds since 1970, as every time of the answer.")
    started_at: float | None
    ended_at: float | None
    expires_at: float | None = Field(description="When the job and its pictures are removed, once it has ended.")
    pictures_total: int
    pictures_done: int
    rows_total: int = Field(description="Rows of cells of all pictures.")
    rows_done: int
    queue_position: int = Field(
        description="Pictures that are painted before its first one. Clients take turns, a picture each."
    )
    seconds_left: float | None = Field(
        description="Seconds until it is done, at the measured pace. None if its model is not served."
    )
    error: JobError | None
    pictures: list[JobPicture] | None = Field(
        description="The finished pictures in the order of painting. A list of jobs leaves them out."
    )


class JobList(BaseModel):
    """Some of the owner's jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[JobAnswer]
    next_cursor: str | None = Field(description="Send it as `cursor` to get older ones. None: there are no more.")
