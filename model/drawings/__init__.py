"""Drawings, what people call them, and the pictures that are put together of them. Knows no model."""
