"""The decoder of ruDALL-E (Malevich, Emojich and others). Imports no torch: its config is read by the HTTP side."""
