"""Paints lines of a file of prompts with this machine's engine. The same line gives the same picture as a server's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from app.batch.folder import Folder, Found, Wanted
from app.batch.lines import Line
from app.http.asked import engine_request
from app.pictures.encode import encode_png
from app.pictures.provenance import Provenance, prompt_hash
from model.errors import DalleError, InvalidRequest
from model.inference.requests import GenerationRequest, SamplingParams
from model.limits import shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from model.painter import Painter

PART = 8  # pictures of one request to the engine


def check(painter: Painter, line: Line) -> None:
    """Raises DataError, which names the line, if the model cannot paint it."""
    try:
        _request(painter, line)
    except DalleError as error:
        raise line.fault(error) from None


def paint_here(
    painter: Painter, folder: Folder, wanted: Sequence[Wanted], on_progress: Callable[[float], object]
) -> list[DalleError]:
    """Paint what is missing. Returns what failed.

    on_progress: called with how many of the missing pictures are painted, parts of unfinished ones counted.
    """
    requests: list[GenerationRequest] = []
    asked: dict[str, tuple[Wanted, SamplingParams]] = {}
    ids = map(str, count())
    for one in wanted:
        for request in _requests(painter, one):
            requests.append(replace(request, id=next(ids)))
            asked[requests[-1].id] = one, request.params
    pictures = sum(len(one.missing) for one in wanted)
    failed: list[DalleError] = []
    chosen: dict[str, list[Image]] = {}
    with contextlib.closing(
        painter.stream(requests, lambda done, total: on_progress(pictures * done / total))
    ) as stream:
        for request_id, picture in stream:
            one, params = asked[request_id]
            best_of = one.line.fields.best_of
            if isinstance(picture, DalleError):
                failed.append(one.line.fault(picture))
            elif best_of is None:
                _keep(painter, folder, one, params, picture.info["index"] - (one.line.fields.index or 0), picture)
            else:
                together = chosen.setdefault(request_id, [])
                together.append(picture)
                if len(together) == best_of:
                    together.sort(key=lambda image: (-image.info["score"], image.info["index"]))
                    for number in one.missing:
                        _keep(painter, folder, one, params, number, together[number])
                    del chosen[request_id]
    return failed


def _request(painter: Painter, line: Line) -> GenerationRequest:
    """What the engine is asked for a whole line. Raises InvalidRequest."""
    fields, checkpoint = line.fields, painter.checkpoint
    config = checkpoint.config
    if fields.model not in (None, config.name):
        raise InvalidRequest("model", f"model must be {config.name}, got {shown(fields.model)}")
    request = engine_request(fields, config.name, config, checkpoint.styles, line.count)
    request.params.check(config.transformer.image_vocab)
    return replace(request, text_ids=tuple(painter.tokenizer.encode(line.text, bool(fields.truncate))))


def _requests(painter: Painter, wanted: Wanted) -> list[GenerationRequest]:
    """The missing pictures, as runs that follow one another. Pictures of which the best are kept stay together."""
    request = _request(painter, wanted.line)
    if request.score:
        return [request] if wanted.missing else []
    runs: list[list[int]] = []
    for number in wanted.missing:
        if runs and runs[-1][-1] == number - 1 and len(runs[-1]) < PART:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [replace(request, first_index=request.first_index + run[0], num_images=len(run)) for run in runs]


def _keep(painter: Painter, folder: Folder, wanted: Wanted, params: SamplingParams, number: int, image: Image) -> None:
    info = image.info
    text = info.get("revised", wanted.line.text)
    style = info.get("style")
    how = Provenance(painter.checkpoint.config.name, info["index"], params, prompt_hash(text), text, style=style)
    file = encode_png(image.tobytes(), *image.size, how.texts())
    folder.keep(
        wanted, number, file, Found(text, params.seed, info["index"], style, info.get("score"), info.get("fit"))
    )
