"""Files of other people's models become `Imported`: the family is told by what the weights hold.

imported = read_import([Path("dalle.pt"), Path("bpe.json")], {"heads": "16"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from model.errors import CheckpointError
from model.importing import dalle_pytorch, image, kakaobrain, llamagen, min_dalle, rudalle, t5
from model.importing.calls import Inert
from model.importing.files import Given, Imported, Text, Weights
from model.importing.recognise import read_files
from model.importing.state import kind
from model.importing.tensors import Tensors
from model.limits import shown

# Each has roles(content) -> what a weights file is to it, or None; and read(given) -> Imported.
TRANSFORMERS: tuple[ModuleType, ...] = (dalle_pytorch, min_dalle, rudalle, llamagen, kakaobrain)
SEVERAL = (t5.ROLE,)  # roles that several files may have
ALONE = "image tokenizer"  # the family of an import without a transformer


def read_import(paths: Sequence[Path], settings: Mapping[str, str]) -> Imported:
    """The model in these files, in any order. settings: of --set. The sums within zips are compared.

    Raises CheckpointError in one line for anything that cannot be read exactly: it names the file, and the key.
    """
    files = read_files(paths, Tensors().make, compare=True)
    weights = [file for file in files if isinstance(file, Weights)]
    if not weights:
        raise CheckpointError(f"{paths[0]}: no file has weights; give the checkpoint's own file too")
    by_kind: dict[str, Text] = {}
    for text in files:
        if not isinstance(text, Text):
            continue
        if text.kind in by_kind:
            raise CheckpointError(f"{text.path}: a second {text.kind}; {by_kind[text.kind].path} is one too")
        by_kind[text.kind] = text
    family, by_role = _roles(weights)
    given = Given(by_role, by_kind, settings)
    imported = family.read(given) if family is not None else _alone(given)
    if given.unused_settings:
        known = ", ".join(sorted(given.asked)) or "none for these files"
        raise CheckpointError(f"--set {shown(given.unused_settings[0])}: unknown key; known are {known}")
    if given.unused_files:
        raise CheckpointError(f"{given.unused_files[0]}: belongs to nothing in a model of {imported.family}")
    _check_size(imported, sum(file.size for file in weights))
    return imported


def _check_size(imported: Imported, given: int) -> None:
    """Raises CheckpointError where the tensors need many times the bytes of the files, by sharing them."""
    parts = [part for part in (imported.vae, imported.transformer) if part is not None]
    needed = sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part.state.values())
    if needed > 4 * given + 2**24:
        raise CheckpointError(f"the model's tensors need {needed:,} bytes, and its files have {given:,}: they overlap")


def _alone(given: Given) -> Imported:
    part = image.read_vae(given)
    family = str(part.config.family)
    return Imported(family, f"{ALONE} {family}", part)


def _roles(weights: Sequence[Weights]) -> tuple[ModuleType | None, dict[str, Weights]]:
    """The family with a transformer that these files are of, None for none, and the files by role."""
    found: dict[str, Weights] = {}
    families: list[ModuleType] = []
    for file in weights:
        for family in (*TRANSFORMERS, image):
            role = family.roles(file.content)
            if role is None:
                continue
            if role in found and role in SEVERAL:
                role = f"{role}, file {1 + sum(name.startswith(role) for name in found)}"
            if role in found:
                raise CheckpointError(f"{file.path}: a second {role}; {found[role].path} is one too")
            found[role] = file
            if family is not image and family not in families:
                families.append(family)
            break
        else:
            raise CheckpointError(f"{file.path}: {unknown(file)}")
    if len(families) > 1:
        raise CheckpointError(f"{weights[0].path}: the files are of two models; import them one after the other")
    return (families[0] if families else None), found


def roles_of(file: Weights) -> list[str]:
    """What the file is to the families: no more than one role, or none."""
    found = (family.roles(file.content) for family in (*TRANSFORMERS, image))
    return [role for role in found if role is not None][:1]


def unknown(file: Weights) -> str:
    """What a file of weights is that no family knows."""
    content = file.content
    if isinstance(content, Inert):
        return f"a pickled {shown(content.name)[1:-1]}, which no family here has"
    if not isinstance(content, dict):
        return f"a {file.container} file of {kind(content)}, which is no checkpoint"
    keys = [key for key in list(content)[:1000] if isinstance(key, str)]
    if file.container == "safetensors":
        what = "a safetensors file, with no hparams in it"
    elif any(key.startswith("ds_") or key == "dp_world_size" for key in keys):
        what = "a part of a DeepSpeed checkpoint; its zero_to_fp32.py joins the parts into one file"
    else:
        what = f"a {file.container} file"
    if "to_logits.1.weight" in keys:
        what += "; its weights are those of DALLE-pytorch, whose hparams must be in the file too"
        return what
    shown_keys = ", ".join(shown(key)[1:-1] for key in keys[:4]) or "none"
    return f"{what}, and its keys are of no model that is known here: {shown_keys}"
