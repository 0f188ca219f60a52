"""The recipe of weights/default: its data, its commands with their values (recipe.toml), its evaluation.

    python -m model.recipes.default build | train | evaluate | sheets

`recipe` reads recipe.toml, and `commands` is the command line. `corpus` makes pictures of drawings, `evaluation`
measures a checkpoint, and `sheets` lists the prompts of the model card's sheets. Nothing else imports this package, and
it is not in the wheel.
"""
