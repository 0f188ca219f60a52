"""Requests for jobs that are refused. The answer names what is wrong, and nothing is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.asking_jobs import ask
from tests.app.live import Live


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "text"),
        ({"text": "a cat", "prompts": ["a dog"]}, "text"),
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a cat"] * 101}, "prompts"),
        ({"prompts": ["a cat"] * 11, "count": 100}, "count"),
        ({"text": "a cat", "count": 1001}, "count"),
        ({"text": "a cat", "count": 0}, "count"),
        ({"text": "a cat", "count": 1, "num_images": 1}, "count"),
        ({"prompts": ["a cat", "x " * 400]}, "prompts[1]"),
        ({"text": "a cat", "keep_rows": 4}, "image"),
        ({"text": "a cat", "webhook": {"url": "https://10.0.0.1", "secret": "whsec_" + "A" * 32}}, "webhook.url"),
        ({"text": "a cat", "webhook": {"url": "https://example.org", "secret": "short"}}, "webhook.secret"),
        ({"text": "a cat", "style": "oil"}, "style"),
        ({"text": "a cat", "best_of": 2, "count": 3}, "best_of"),
    ],
)
def test_a_wrong_job_is_refused_and_not_kept(live: Live, fields: Any, param: str) -> None:
    before = live.client.get("/v1/jobs").json()
    answer = ask(live, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert live.client.get("/v1/jobs").json() == before


HOOK = {"url": "https://example.org", "secret": "whsec_" + "A" * 32}
LIST = "must be a list of 1 to 100 texts"
TEXT = "must be a text of 1 to 4000 characters that is not blank"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompts": "a"}, f'prompts {LIST}, got "a"'),
        ({"prompts": []}, f"prompts {LIST}, got []"),
        ({"prompts": ["a", 5]}, f"prompts[1] {TEXT}, got 5"),
        ({"prompts": ["a" * 4001]}, f"prompts[0] {TEXT}, got 4001 characters"),
        ({"webhook": "https://example.org"}, 'webhook must be an object with url and secret, got "https://example.org"'),
        ({"webhook": {"url": 5, "secret": "x"}}, "webhook.url must be a text of 1 to 2000 characters, got 5"),
        ({"webhook": {"url": "x"}}, "webhook.secret is missing; it must be a text of 1 to 128 characters"),
        ({"webhook": HOOK | {"urls": 1}}, "webhook.urls is not a field of this request; did you mean webhook.url?"),
        ({"webhook": HOOK | {"secret": "AAAA"}}, "webhook.secret must be whsec_ and 24 to 64 bytes in base64, got 3"),
        ({"webhook": HOOK | {"url": f"https://{'a' * 64}.org"}}, "webhook.url must be an address with https, got "),
        ({"promts": ["a"]}, "promts is not a field of this request; did you mean prompts?"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_wherever_it_stands(live: Live, fields: Any, said: str) -> None:
    answer = ask(live, **({} if "prompts" in fields else {"text": "a"}), **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(said)
    assert answer.json()["error"]["param"] in said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("/v1/jobs?limit=abc", "limit must be an integer from 1 to 100, got abc"),
        ("/v1/jobs?limit=0", "limit must be an integer from 1 to 100, got 0"),
        ("/v1/jobs?limit=", "limit must be an integer from 1 to 100, got empty"),
        ("/v1/jobs?cursor=%00", 'cursor must be the next_cursor of another answer, got "\\u0000"'),
        ("/things?limit=1e9", "limit must be an integer from 1 to 2000, got 1e9"),
        (f"/things?q={'a' * 65}", "q must be a text of 0 to 64 characters, got 65 characters"),
    ],
)
def test_a_wrong_parameter_in_the_address_is_named(live: Live, asked: str, said: str) -> None:
    answer = live.client.get(asked)
    told = answer.json()["error"]["message"] if asked.startswith("/v1/") else answer.json()["Error"]
    assert (answer.status_code, told) == (400 if asked.startswith("/v1/") else 422, said)


def test_a_wrong_method_is_told_all_that_there_are(live: Live) -> None:
    answer = live.client.put("/v1/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert answer.json()["error"]["message"] == "the method must be GET or POST, got PUT /v1/jobs"
