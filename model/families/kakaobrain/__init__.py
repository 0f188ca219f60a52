"""The decoder of kakaobrain's minDALL-E. Imports no torch: its config is read by the HTTP side."""
