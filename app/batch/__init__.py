"""Paints a file of prompts into a folder, with this machine's engine or as jobs of a server.

A run that was stopped can go on.
"""
