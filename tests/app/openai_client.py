"""What a user of the `openai` package does, run by the tests in a process of its own with each major of the package.

    python openai_client.py URL BUSY_URL IMAGE MASK

One JSON object comes out: what each scenario saw. BUSY_URL's workers make no step, its queue holds 16 pictures and a
client's share is 12.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import openai
from openai import OpenAI

PROMPT = "a red apple"
SEED: Any = {"seed": 7}


def see(event: Any) -> dict[str, Any]:
    """An event of a stream without its bytes. Attributes that the package does not know survive."""
    seen = {name: getattr(event, name) for name in ("type", "index", "seed", "rows_done", "size", "output_format")}
    seen["partial_image_index"] = getattr(event, "partial_image_index", None)
    seen["file"] = event.b64_json
    if event.type.endswith("completed"):
        seen["output_tokens"] = event.usage.output_tokens
    return seen


def failed(call: Callable[[], Any]) -> dict[str, Any]:
    """The error that `call` ends with."""
    try:
        call()
    except openai.APIError as error:
        seen = {"class": type(error).__name__, "code": error.code, "param": error.param, "type": error.type}
        response = getattr(error, "response", None)
        seen["status"] = response.status_code if response is not None else None
        seen["message"] = error.message
        return seen
    raise AssertionError("the call succeeded")


def pleasant(client: OpenAI, image: Path, mask: Path) -> dict[str, Any]:
    """What works."""
    generate, edit = client.images.generate, client.images.edit
    plain = generate(model="quick", prompt=PROMPT, n=3, response_format="b64_json", user="me", extra_body=SEED)
    nulls: Any = {"n": None, "size": None, "quality": None, "style": None, "background": None, "output_format": None}
    assert plain.usage is not None
    assert plain.data is not None
    seen: dict[str, Any] = {
        "plain": [picture.b64_json for picture in plain.data],
        "seeds": [(picture.seed, picture.index) for picture in plain.data],  # type: ignore[attr-defined]
        "usage": plain.usage.model_dump(),
        "size": plain.size,
        "nulls": [picture.b64_json for picture in generate(prompt=PROMPT, extra_body=SEED, **nulls).data or []],
        "id": generate(prompt=PROMPT)._request_id,
        "models": [model.id for model in client.models.list()],
        "model": client.models.retrieve("quick").model_dump(exclude_none=True),
    }
    for partials in range(4):
        stream: Any = generate(prompt=PROMPT, n=2, stream=True, partial_images=partials, extra_body=SEED)
        seen[f"stream-{partials}"] = [see(event) for event in stream]
    masked: Any = {"prompt": PROMPT, "image": image, "mask": mask, "extra_body": SEED}
    seen["edit"] = [picture.b64_json for picture in edit(**masked, n=2).data or []]
    seen["edit-list"] = [picture.b64_json for picture in edit(**{**masked, "image": [image]}).data or []]
    stream = edit(**masked, stream=True, partial_images=1)
    seen["edit-stream"] = [see(event) for event in stream]
    seen["left"] = leave(client)
    return seen


def leave(client: OpenAI) -> str:
    """Close a stream after its first event."""
    stream: Any = client.images.generate(prompt=PROMPT, n=10, stream=True, partial_images=3)
    kind = str(next(iter(stream)).type)
    stream.close()
    return kind


def refused(client: OpenAI, image: Path, mask: Path) -> dict[str, Any]:
    """Every refusal that a request can earn."""
    wrong: dict[str, dict[str, Any]] = {
        "n": {"n": 11},
        "size": {"size": "1024x1536"},
        "background": {"background": "transparent"},
        "output_format": {"output_format": "gif"},
        "response_format": {"response_format": "file"},
        "partial_images": {"partial_images": 2},
        "prompt": {"prompt": ""},
        "model": {"model": "dall-e-3"},
        "output_compression": {"output_compression": 50},
        "top_k": {"extra_body": {"top_k": 17}},
        "colour": {"extra_body": {"colour": "red"}},
    }
    seen = {
        name: failed(lambda fields=fields: client.images.generate(**{"prompt": PROMPT, **fields}))  # type: ignore[misc]
        for name, fields in wrong.items()
    }
    edit: Any = client.images.edit
    seen["mask"] = failed(lambda: edit(prompt=PROMPT, image=image))
    seen["image"] = failed(lambda: edit(prompt=PROMPT, image=[image, image], mask=mask))
    seen["before-a-stream"] = failed(lambda: client.images.generate(prompt=PROMPT, n=11, stream=True))
    seen["no-model"] = failed(lambda: client.models.retrieve("gpt-image-1"))
    return seen


def overloaded(busy_url: str) -> dict[str, Any]:
    """What a server says that has more to do than it takes."""
    client = OpenAI(base_url=f"{busy_url}/v1", api_key="none", timeout=120)
    impatient = client.with_options(max_retries=0)
    held: list[Any] = [client.images.generate(prompt=PROMPT, n=n, stream=True) for n in (10, 1)]
    share = failed(lambda: impatient.images.generate(prompt=PROMPT, n=2))
    for stream in held:
        stream.close()
    while b"dalle_pictures_in_flight 0.0" not in urlopen(busy_url + "/metrics").read():
        time.sleep(0.05)
    soon = {"X-Request-Timeout": "2"}
    with ThreadPoolExecutor(2) as threads:
        told: Any = client.images.generate(prompt=PROMPT, stream=True, extra_headers=soon)
        streamed = threads.submit(failed, lambda: list(told))
        late = failed(lambda: client.images.generate(prompt=PROMPT, extra_headers=soon))
        return {"share": share, "late": late, "streamed": streamed.result()}


def main() -> None:
    """Run everything."""
    url, busy_url, image, mask = sys.argv[1:]
    client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120)
    seen = {"version": openai.__version__, **pleasant(client, Path(image), Path(mask))}
    seen["refused"] = refused(client, Path(image), Path(mask))
    seen["overloaded"] = overloaded(busy_url)
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
