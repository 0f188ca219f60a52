"""How weights/default was made and is measured: its data, its commands with their values (recipe.toml), its figures.

    python -m model.recipes.default build | train | evaluate | sheets

`recipe` reads recipe.toml, and `commands` is the command line. `corpus` makes pictures of drawings, `evaluation`
measures, and `sheets` says what stands on the model card's sheets. Nothing else needs it, and it is not in the wheel.
"""
