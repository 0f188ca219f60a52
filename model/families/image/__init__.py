"""Image tokenizers of other people's models. `config` knows no tensors; `build` makes the network of a config."""
