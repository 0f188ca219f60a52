"""Drawings, their names, and the pictures that are composed of them. Knows nothing of models."""
