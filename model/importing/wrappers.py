"""A state dict that was saved with its wrapper: the wrapper's word stands in front of every key, and is taken off.

The words are those of torch's DistributedDataParallel and of torch.compile.
"""

from __future__ import annotations

from typing import Any

WORDS = ("module.", "_orig_mod.")
PLACES = ("weights", "state_dict", "model", "module", "model_state_dict")  # of the state dict in what was saved


def unwrapped(content: Any) -> Any:
    """What a file holds, with the keys that its network has. What is no state dict is left as it is."""
    if not isinstance(content, dict):
        return content
    return _bare({key: _bare(value) if key in PLACES else value for key, value in content.items()})


def _bare(state: Any) -> Any:
    if not isinstance(state, dict) or not state:
        return state
    for word in WORDS:
        if all(isinstance(key, str) and key.startswith(word) for key in state):
            state = {key.removeprefix(word): value for key, value in state.items()}
    return state
