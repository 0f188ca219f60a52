"""Drawings, their names, and the pictures that are composed of them. These files know nothing of models."""
