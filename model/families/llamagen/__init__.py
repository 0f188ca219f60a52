"""The class-conditional decoder of LlamaGen. Imports no torch: its config is read by the HTTP side."""
