"""The licence of the code that each kind of file comes from, by role. That of the weights is what their authors say."""

from __future__ import annotations

from model.importing import dalle_pytorch, image, kakaobrain, llamagen, min_dalle, rudalle, t5

LICENCES = {
    dalle_pytorch.ROLE: "MIT",
    min_dalle.ENCODER: "MIT",
    min_dalle.DECODER: "MIT",
    rudalle.ROLE: "Apache-2.0",
    llamagen.ROLE: "MIT",
    t5.ROLE: "Apache-2.0",
    kakaobrain.ROLE: "Apache-2.0",
    image.DISCRETE_VAE: "MIT",
    image.OPENAI_ENCODER: "modified MIT",
    image.OPENAI_DECODER: "modified MIT",
    image.TAMING: "MIT",
    image.DETOKER: "MIT",
    image.LLAMAGEN: "MIT",
}
