"""A state dict that was saved with its wrapper: the wrapper's word stands in front of every key, and is taken off.

The words are those of torch's DistributedDataParallel and AveragedModel, and of torch.compile, in any order.
"""

from __future__ import annotations

from typing import Any

WORDS = ("module.", "_orig_mod.")
COUNT = "n_averaged"  # AveragedModel's own, how many steps its average is of
PLACES = ("weights", "state_dict", "model", "module", "model_state_dict")  # of the state dict in what was saved


def unwrapped(content: Any) -> Any:
    """What a file holds, with the keys that its network has. What is no state dict is left as it is."""
    if not isinstance(content, dict):
        return content
    return _bare({key: _bare(value) if key in PLACES else value for key, value in content.items()})


def _bare(state: Any) -> Any:
    while isinstance(state, dict):
        inside = [key for key in state if key != COUNT]
        word = next((word for word in WORDS if inside and all(_begins(key, word) for key in inside)), None)
        if word is None:
            break
        state = {key.removeprefix(word): state[key] for key in inside}
    return state


def _begins(key: Any, word: str) -> bool:
    return isinstance(key, str) and key.startswith(word)
