"""Paints a file of prompts into a folder, with this machine's engine or as jobs of a server. It can be broken off."""
