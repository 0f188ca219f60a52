"""The errors of the HTTP side, and the status that each error is answered with.

    DalleError (model.errors)
    ├── BadBody                 400: the body is not JSON, not UTF-8 or not a valid form
    ├── BadHeader               400: a header that steers the request has a wrong value (names the header)
    ├── BodyTooLarge            413: the body has more bytes than the server reads
    ├── WrongContentType        415: the route does not read this type, or there is a Content-Encoding
    ├── BodyTooSlow             408: the body did not arrive in time
    ├── NotAuthorised           401: the API key is missing or unknown
    ├── ForeignPage             403: a page of another origin sent the request
    ├── ForeignHost             403: the request was sent to a name that is not this server's
    ├── IdempotencyConflict     409: another request had this Idempotency-Key
    ├── NoSuchJob               404: the client has no job of this id
    ├── ClientGone              no answer, because nobody would read it (499 in the log)
    └── ReaderTooSlow           the client reads its answer too slowly and is cut (499 in the log)

One table maps these errors, those of `model.errors` and of `app.jobs.faults`, and `app.models.NoSuchModel` (404: no
model has this name).

There are two dialects. Under /v1/ an answer is OpenAI's {"error": {"message", "type", "param", "code"}}, and a wrong
field is a 400. Elsewhere it is {"Error": "one line for a person"}, and a wrong field is a 422.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.jobs.faults import StoreFault, StoreFull
from app.models import NoSuchModel
from model import errors
from model.errors import DalleError, InvalidRequest


class BadBody(DalleError):
    """A body that cannot be read as what its Content-Type says."""


class BadHeader(InvalidRequest):
    """A header that steers the request has a value that cannot be honoured. field: the header's name."""


class BodyTooLarge(DalleError):
    """A body with more bytes than the server reads. The message names the limit, and the bytes if they are known."""


class WrongContentType(DalleError):
    """A Content-Type that the route does not read, or a Content-Encoding."""


class BodyTooSlow(DalleError):
    """The body did not arrive in time."""


class NotAuthorised(DalleError):
    """A request without an API key, or with an unknown one. given: whether there was a key."""

    def __init__(self, message: str, given: bool) -> None:
        super().__init__(message)
        self.given = given


class ForeignPage(DalleError):
    """A web page of another origin sent a request that may change something."""


class ForeignHost(DalleError):
    """A request was sent to a name that is not this server's."""


class IdempotencyConflict(DalleError):
    """Another request had this Idempotency-Key a short while ago."""


class NoSuchJob(DalleError):
    """The client has no job of this id."""


class ClientGone(DalleError):
    """The client closed its connection before the answer."""


class ReaderTooSlow(DalleError):
    """The client reads its answer too slowly, or not at all."""


# The first row whose type fits an error decides.
TABLE: tuple[tuple[type[DalleError], int, str], ...] = (
    (NotAuthorised, 401, "invalid_api_key"),
    (ForeignPage, 403, "foreign_page"),
    (ForeignHost, 403, "foreign_host"),
    (BadBody, 400, "bad_body"),
    (BadHeader, 400, "bad_header"),
    (BodyTooSlow, 408, "body_too_slow"),
    (BodyTooLarge, 413, "body_too_large"),
    (WrongContentType, 415, "wrong_content_type"),
    (NoSuchModel, 404, "model_not_found"),
    (IdempotencyConflict, 409, "idempotency_conflict"),
    (errors.PromptTooLong, 422, "prompt_too_long"),
    (errors.UnknownPrompt, 422, "unknown_prompt"),
    (errors.InvalidRequest, 422, "invalid_request"),
    (NoSuchJob, 404, "not_found"),
    (StoreFull, 507, "store_full"),
    (StoreFault, 503, "no_store"),
    (ClientGone, 499, "client_gone"),
    (errors.RequestCancelled, 499, "client_gone"),
    (ReaderTooSlow, 499, "reader_too_slow"),
    (errors.PaintingFailed, 500, "painting_failed"),
    (errors.ModelFailed, 500, "model_failed"),
    (errors.Overloaded, 503, "overloaded"),
    (errors.Draining, 503, "draining"),
    (errors.WorkerFailed, 503, "worker_failed"),
    (errors.DeadlineExceeded, 504, "deadline_exceeded"),
)
RESTART_SECONDS = 5  # a client should try again after them if the server shuts down or has lost its worker
OPENAI = "/v1/"  # the paths that speak OpenAI's dialect
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# The openai package retries these statuses unless the answer forbids it. A retry would fail in the same way or take as
# long.
NO_RETRY = frozenset({409, 500, 504})
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
CODES = tuple(dict.fromkeys(
    [code for _, _, code in TABLE]
    + ["bad_request", "head_too_slow", "too_many_connections"]  # answers of app.http.protocol, without a route
    + ["missing_api_key", "client_over_share", "poison_request", "internal_error", "http_error", *HTTP_CODES.values()]
))  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """The answer to an error.

    code: one of CODES, for logs, metrics and the OpenAI dialect. param: the wrong field, if there is one.
    """

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    param: str | None = None


def answer(error: BaseException) -> Answer:
    """The answer to `error`. An error that is not in the table is a fault of the server: a 500 without details."""
    if isinstance(error, errors.Overloaded):
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        if error.per_client:
            return Answer(429, "client_over_share", str(error), headers)
        return Answer(503, "overloaded", str(error), headers)
    if isinstance(error, errors.WorkerFailed) and error.poison:
        return Answer(500, "poison_request", str(error))
    if isinstance(error, NotAuthorised):  # the header by RFC 6750, section 3
        asked = 'Bearer realm="dalle-server"' + ', error="invalid_token"' * error.given
        code = "invalid_api_key" if error.given else "missing_api_key"
        return Answer(401, code, str(error), {"WWW-Authenticate": asked})
    if isinstance(error, HTTPException):
        code = HTTP_CODES.get(error.status_code, "http_error")
        return Answer(error.status_code, code, str(error.detail), error.headers or {})
    for kind, status, code in TABLE:
        if isinstance(error, kind):
            headers = {"Retry-After": str(RESTART_SECONDS)} if status == 503 else {}
            param = error.field if isinstance(error, InvalidRequest) else None
            return Answer(status, code, str(error), headers, param)
    return Answer(500, "internal_error", "internal error; the server's log has the details under this request id")


def render(said: Answer, path: str = "") -> Response:
    """The answer in the dialect of the route at `path`."""
    if not path.startswith(OPENAI):
        body = json.dumps({"Error": said.message}).encode()
        return Response(body, said.status, dict(said.headers), media_type="application/json")
    headers = dict(said.headers)
    if said.status in NO_RETRY:
        headers["x-should-retry"] = "false"
    body = json.dumps({"error": openai_error(said)}).encode()
    return Response(body, 400 if said.status == 422 else said.status, headers, media_type="application/json")


def openai_error(said: Answer) -> dict[str, str | None]:
    """The error object of OpenAI's dialect, for an answer or an event of a stream."""
    kind = TYPES.get(said.status, "invalid_request_error" if said.status < 500 else "server_error")
    return {"message": said.message, "type": kind, "param": said.param, "code": said.code}
