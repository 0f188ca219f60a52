"""The reviser: a small text transformer that says a prompt in the corpus's words."""

from model.reviser.reviser import Reviser

__all__ = ["Reviser"]
