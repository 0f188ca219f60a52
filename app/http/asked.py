"""Makes a request to the engine from the fields that a client sent, or that a line of a file of prompts has."""

from __future__ import annotations

from app.http.schemas import Sampling
from model.config import CheckpointConfig
from model.errors import InvalidRequest
from model.inference.requests import Completion, GenerationRequest, SamplingParams, top_k_of
from model.styles import Styles


def engine_request(
    asked: Sampling, name: str, config: CheckpointConfig, styles: Styles, pictures: int, revise: bool = True,
    on_unknown: str = "paint", partial_rows: tuple[int, ...] = (),
) -> GenerationRequest:  # fmt: skip
    """A request without id and text, of `pictures` pictures, or of best_of if that is asked for.

    name: the model's, for errors. revise, on_unknown: what holds where the fields say nothing.
    Raises InvalidRequest if filter_thres, complete, revise, style or on_unknown cannot be honoured.
    """
    if asked.complete and not config.completes:
        raise InvalidRequest("complete", f"complete must be left out: {name} was not trained to continue texts")
    if asked.revise and config.reviser is None:
        raise InvalidRequest("revise", f"revise must be left out: {name} has no reviser")
    styles.check(asked.wanted_style)
    if asked.on_unknown == "refuse" and config.reviser is None:
        raise InvalidRequest("on_unknown", f"on_unknown must be paint or left out: {name} has no reviser")
    top_k = asked.top_k
    if asked.filter_thres is not None:
        if top_k is not None:
            found = f"{asked.filter_thres} and top_k {top_k}"
            raise InvalidRequest("filter_thres", f"filter_thres must be left out where top_k is given, got {found}")
        top_k = top_k_of(asked.filter_thres, config.transformer)
    revises = revise and not asked.complete and config.reviser is not None
    return GenerationRequest(
        id="",
        text_ids=(),
        num_images=asked.best_of or pictures,
        params=SamplingParams.of(config.sampling, asked.seed, asked.temperature, top_k, asked.top_p, asked.guidance),
        first_index=asked.index or 0,
        partial_rows=partial_rows,
        score=asked.best_of is not None,
        complete=Completion() if asked.complete else None,
        revise=revises if asked.revise is None else asked.revise,
        style=asked.wanted_style,
        refuse_unknown=(asked.on_unknown or on_unknown) == "refuse",
    )
