"""Text tokenizers of other families. They import no torch."""
