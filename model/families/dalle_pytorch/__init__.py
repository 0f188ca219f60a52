"""The transformer of DALLE-pytorch 0.12 to 1.6.6 (github.com/lucidrains/DALLE-pytorch). Imports no torch at the top.

`config` says what one is, `transformer` computes it, and `layers` has its parts.
"""
