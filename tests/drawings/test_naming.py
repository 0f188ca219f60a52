"""What a caption names."""

from __future__ import annotations

import pytest

from model.drawings.concepts import Name
from model.drawings.naming import thing_in


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("a zorb", Name("zorb", "a")),
        ("An orange zorb on a light blue background.", Name("orange zorb", "an")),
        ("zorb, pink background", Name("zorb", "a")),
        ("A photo of a red mug", Name("red mug", "a")),
        ("the Eiffel tower", Name("Eiffel tower", "the")),
        ("my dog", Name("my dog")),
        ("grapes", Name("grapes")),
        ("two zorbs", None),
        ("a zorb and a cat", None),
        ("a zorb, a cat", None),
        ("a zorb that is looking out of the window", None),
        ("a", None),
        ("a teal zorb on white background", Name("teal zorb", "a")),
        ("a mug isolated on a plain, white background", Name("mug", "a")),
        ("a zorb on pink", Name("zorb", "a")),
        ("One zorb", Name("zorb", "a")),
        ("Red mug.", Name("red mug", "a")),
        ("Rex", Name("Rex")),
        ("Dave's dog", Name("Dave's dog")),
        ("a small zorb in the corner", None),
        ("a cat sitting", None),
        ("a few zorbs", None),
        ("a zorb & a cat", None),
    ],
)
def test_the_thing_in_a_caption(caption: str, name: Name | None) -> None:
    assert thing_in(caption) == name
