"""What a docstring names in backticks exists: a module, a function, a class, a field or a parameter of ours."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted(path for room in ("app", "model") for path in (ROOT / room).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
NAME = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`")
# Words of other programs and formats that stand in backticks.
FOREIGN = frozenset({"Health", "anyOf", "await", "extra_body", "nohup", "tensorboard", "with"})


def docstrings() -> Iterator[tuple[str, str]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.get_docstring(node)
            if text:
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", text


def known() -> set[str]:
    """Every name that our code defines or uses outside of docstrings."""
    found = (
        set(dir(builtins)) | {path.stem for path in FILES} | {folder.name for path in FILES for folder in path.parents}
    )
    for tree in TREES.values():
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                    found.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.alias(name=name):
                    found |= set(name.split("."))
    return found


def exists(dotted: str) -> bool:
    """Whether a name such as model.vae.VAE leads to something, as far as its modules can tell."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            if importlib.util.find_spec(".".join(parts[:end])):
                rest = parts[end:]
                source = ROOT.joinpath(*parts[:end])
                file = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
                return not rest or re.search(rf"\b{re.escape(rest[0])}\b", file.read_text(encoding="utf-8")) is not None
        except ModuleNotFoundError:
            continue
    return False


def test_references_in_docstrings_exist() -> None:
    names = known()
    missing = []
    for where, text in docstrings():
        for name in NAME.findall(text):
            if name.split(".")[0] in ("app", "model"):
                fits = name in ("app", "model") or exists(name) or set(name.split(".")) <= names
            else:
                fits = set(name.split(".")) <= names or name in FOREIGN
            if not fits:
                missing.append(f"{where}: `{name}`")
    assert missing == []


def test_dotted_names_are_looked_up() -> None:
    assert exists("model.vae.VAE")
    assert exists("app.settings.Settings")
    assert not exists("model.no_such_module")
    assert not exists("app.settings.NoSuchName")
