"""The encoder-decoder of min-dalle (DALL-E mini and mega). Imports no torch: its config is read by the HTTP side."""
