"""Networks and tokenizers of other families. Imports no torch: the HTTP side reads their configs."""
