"""Imports point one way, and what must start quickly does not pull in torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
LIMITS = ("model.limits", "model.sizes", "model.errors", "model.families.ordinary")
CORE = (
    "model.config",
    "model.config_file",
    "model.files",
    "model.memory",
    "model.styles",
    "model.texts",
    "model.image_shapes",
    "model.written",
    *LIMITS,
)
CONFIGS = (
    "model.families.dalle_pytorch.config",
    "model.families.min_dalle.config",
    "model.families.rudalle.config",
    "model.families.llamagen.config",
    "model.families.kakaobrain.config",
    "model.families.image.config",
    "model.families.text.config",
)
PARTS = (
    "model.families",
    "model.colour_words",
    "model.plurals",
    "model.things",
    "model.tokenizers",
    "model.tokenizer",
    "model.vae",
    "model.transformer",
    "model.clip",
    "model.reviser",
    *CORE,
)
RECIPES = "model.recipes"  # nobody imports these
# Nor these but commands that run them, and recipes.
LEAVES = ("model.training", "model.benchmark", "model.importing", "model.exporting")
# Of these the commands make their flags, or have a first look with: no torch.
ASKED = ("model.training.knobs", "model.training.options", "model.training.rules", "model.importing.recognise")
BELOW = (
    "model.painter",
    "model.sheets",
    "model.inference",
    "model.kernels",
    "model.checkpoints",
    *PARTS,
)  # training and recipes
PICTURES = ("model.picture_files", "model.upright", "model.squares")
APP = ("app.checkpoint", "app.models", "app.logs", "app.settings", "app.wording")

# A package of ours -> what of ours it may import, at any level. The longest prefix of a module's name rules.
ALLOWED: dict[str, tuple[str, ...]] = {
    "model": ("model.painter",),
    "model.errors": (),
    "model.limits": ("model.errors",),
    "model.sizes": (),
    "model.memory": (),
    "model.files": ("model.errors", "model.limits"),
    **dict.fromkeys(CONFIGS, LIMITS),
    "model.config": ("model.files", *CONFIGS, *LIMITS),
    "model.config_file": ("model.config", "model.files", *LIMITS),
    "model.styles": ("model.config", "model.errors", "model.limits"),
    "model.sheets": (),
    "model.prompts": ("model.errors",),
    "model.written": ("model.errors",),
    "model.texts": ("model.errors", "model.limits"),
    "model.image_shapes": (),
    "model.picture_files": ("model.errors",),
    "model.upright": ("model.picture_files",),
    "model.squares": (),
    "model.gallery": CORE,
    "model.things": CORE,
    "model.tokenizer": CORE,
    "model.vae": CORE,
    "model.transformer": CORE,
    "model.clip": ("model.vae", *CORE),
    "model.reviser": ("model.transformer", *CORE),
    "model.families.ordinary": (),
    "model.families": ("model.transformer", *CONFIGS, *CORE),
    "model.tokenizers": ("model.families.text", "model.tokenizer", *CORE),
    "model.checkpoints": PARTS,
    "model.importing": ("model.checkpoints", *PARTS),
    "model.exporting": ("model.importing", "model.checkpoints", *PARTS),
    "model.kernels": ("model.families", "model.transformer", "model.vae", *CORE),
    "model.inference": ("model.checkpoints", "model.kernels", *PARTS),
    "model.painter": ("model.inference", "model.checkpoints", *PARTS),
    "model.colour_words": (),
    "model.plurals": (),
    "model.drawings": ("model.plurals", "model.styles"),
    "model.training": ("model.drawings", *PICTURES, *BELOW),
    "model.recipes": (),
    "model.recipes.default": ("model.training", "model.drawings", "model.gallery", "model.prompts", *BELOW),
    "model.benchmark": BELOW,
    "model.benchmark.peers": (),  # programs for environments without ours
    "app": (),
    "app.logs": (),
    "app.signals": (),
    "app.wording": (),
    "app.environment": (),
    "app.addresses": (),
    "app.lists": ("model.files",),
    "app.settings": ("app.environment", "app.lists", *CORE),
    "app.load_settings": ("app.environment", "app.settings", "app.wording"),
    "app.models": ("app.checkpoint", "app.settings", "app.wording", *CORE),
    "app.checkpoint": ("model.gallery", "model.things", "model.tokenizers", "model.tokenizer", *CORE),
    "app.jobs": ("app.addresses", "app.pool", "model.inference", "model.errors", "model.limits"),
    "app.pictures": ("model.inference", *PICTURES, *CORE),
    "app.pool": ("app.checkpoint", "app.models", "app.logs", "app.settings", "model.inference", *CORE),
    "app.http": (
        "app.jobs",
        "app.pool",
        "app.pictures",
        *APP,
        "model.inference",
        "model.gallery",
        "model.things",
        *CORE,
    ),
    "app.batch": (
        "app.addresses",
        "app.http",
        "app.pictures",
        "app.environment",
        "model.painter",
        "model.sheets",
        "model.inference",
        *CORE,
    ),
    "app.replicas": ("app.http", "app.pool", "app.settings", "model.inference", "model.errors"),
    "app.ray": (
        "app.replicas",
        "app.http",
        "app.logs",
        "app.models",
        "app.signals",
        "app.load_settings",
        "app.settings",
        "model.inference",
        "model.errors",
    ),
    "app.server": ("app.http", "app.pictures", "app.pool", "app.load_settings", "app.signals", *APP, *CORE),
    "app.cli": ("app", "model"),
    "app.commands": ("app", "model"),
}
TORCH_FREE = [
    "model",
    "model.config",
    "model.config_file",
    "model.errors",
    "model.picture_files",
    "model.upright",
    "model.squares",
    "model.files",
    "model.limits",
    "model.gallery",
    "model.things",
    "model.styles",
    "model.tokenizer",
    "model.tokenizers",
    "model.importing.recognise",
    "model.inference",
    "model.inference.events",
    "model.inference.requests",
    "model.inference.messages",
    "model.inference.scheduler",
    "model.training.knobs",
    "model.training.options",
    "app.cli",
]


# A worker that paints a little.
PAINT = """if True:
    from model.inference import worker
    from model.inference.messages import WorkerOptions
    from model.inference.requests import GenerationRequest, SamplingParams

    worker.preload()
    engine, _ = worker.start(WorkerOptions('{weights}', device='cpu', slots=2, threads=1))
    engine.add(GenerationRequest('a', tuple(engine.tokenizer.null), 1, SamplingParams(seed=1)))
    [engine.step() for _ in range(3)]"""


class Import(NamedTuple):
    module: str  # who imports
    name: str  # what: "package.module" or "package.module.name"
    lazy: bool  # inside a function, or for types only

    def __str__(self) -> str:
        return f"{self.module} imports {self.name}"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module.split(".")[: None if is_package else -1]
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
    yield from (f"{base}.{alias.name}" for alias in node.names)


def imports(path: Path) -> Iterator[Import]:
    module, is_package = name_of(path), path.name == "__init__.py"

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield from (Import(module, name, lazy) for name in names(child, module, is_package))
            types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, lazy or types_only or inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), lazy=False)


MODULES = sorted(path for room in ("app", "model") for path in (ROOT / room).rglob("*.py"))
IMPORTS = [found for path in MODULES for found in imports(path)]


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def rule_for(module: str) -> str:
    return max((package for package in ALLOWED if within(module, package)), key=len)


def fits(package: str, patterns: list[str]) -> bool:
    """As setuptools finds packages: a star stands for dots too."""
    return any(fnmatchcase(package, pattern) for pattern in patterns)


def test_the_walk_finds_imports() -> None:
    assert Import("model.checkpoints.native", "model.vae.VAE", lazy=False) in IMPORTS
    assert Import("model", "model.painter.Painter", lazy=True) in IMPORTS


def test_imports_point_one_way() -> None:
    def allowed(found: Import) -> bool:
        package = rule_for(found.module)
        own = package != "model" and within(found.name, package)
        front = found.name in ("model", "model.__version__")
        return own or front or any(within(found.name, target) for target in ALLOWED[package])

    assert [str(found) for found in IMPORTS if within(found.name, "app") and within(found.module, "model")] == []
    ours = [found for found in IMPORTS if within(found.name, "app") or within(found.name, "model")]
    assert [str(found) for found in ours if not allowed(found)] == []


def test_only_commands_import_leaves_and_they_do_so_when_they_run() -> None:
    for found in IMPORTS:
        leaf = next((leaf for leaf in LEAVES if within(found.name, leaf)), None)
        way_back = within(found.name, "model.importing") and within(found.module, "model.exporting")  # the same names
        if leaf and not within(found.module, leaf) and not within(found.module, RECIPES) and not way_back:
            assert rule_for(found.module) in ("app.cli", "app.commands"), str(found)
            assert found.lazy or any(within(found.name, asked) for asked in ASKED), f"{found}, at its top"


def test_nobody_imports_a_recipe_and_no_wheel_has_one() -> None:
    assert [str(found) for found in IMPORTS if within(found.name, RECIPES) and not within(found.module, RECIPES)] == []
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    find = setup["packages"]["find"]
    packages = {name_of(path.parent / "__init__.py") for path in MODULES}
    packed = {name for name in packages if fits(name, find["include"]) and not fits(name, find["exclude"])}
    assert packages - packed == {name for name in packages if within(name, RECIPES)} != set()


def test_no_rooms_import_each_other_in_a_circle() -> None:
    """Of any length; an import inside a function counts too."""
    below: dict[str, set[str]] = {room: set() for room in ALLOWED}
    for found in IMPORTS:
        if within(found.name, "app") or within(found.name, "model"):
            below[rule_for(found.module)].add(rule_for(found.name))
    below = {room: others - {room} for room, others in below.items()}
    while below:
        lowest = [room for room, others in below.items() if not others & below.keys()]
        assert lowest, f"a circle among {', '.join(below)}"
        for room in lowest:
            del below[room]


def test_the_drawing_of_the_rooms_holds() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = page.partition("```text\n")[2].partition("```")[0].splitlines()
    rooms = {
        room.rstrip("/").removesuffix(".py").replace("/", "."): (at, len(line[: line.index(room)].split("──>")))
        for at, line in enumerate(lines)
        for room in re.findall(r"(?:app|model)/[\w./]+", line)
    }
    packages = {name_of(path) for path in MODULES if path.name == "__init__.py"}
    assert {name for name in packages if name.count(".") == 1} <= rooms.keys()

    def room_of(name: str) -> str | None:
        families = any(within(name, config) for config in (*CONFIGS, "model.families.ordinary"))
        return None if families else next((room for room in rooms if within(name, room)), None)

    upwards = [
        str(found)
        for found in IMPORTS
        if (one := room_of(found.module)) and (other := room_of(found.name)) and one != other
        if not rooms[one] < rooms[other]
    ]
    assert upwards == []


def test_the_app_imports_no_torch_at_module_level() -> None:
    heavy = ("torch", "safetensors", "model.checkpoints", "model.painter", "model.vae", "model.transformer")
    tops = [found for found in IMPORTS if within(found.module, "app") and not found.lazy]
    assert [str(found) for found in tops if any(within(found.name, package) for package in heavy)] == []


def test_torch_free_modules_load_without_torch() -> None:
    app = [
        name_of(path) for path in MODULES if within(name_of(path), "app") and path.name not in ("env.py", "router.py")
    ]  # Alembic and Ray load these
    load_all = """if True:
        import importlib, sys
        for name in sys.argv[1:]:
            importlib.import_module(name)
            assert "torch" not in sys.modules, name"""
    done = subprocess.run([sys.executable, "-c", load_all, *TORCH_FREE, *app], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        (
            "from app import cli; cli.program(['serve']); import app.server",
            ("torch", "safetensors", "matplotlib", "model.training", "model.importing", "model.benchmark"),
        ),
        (
            PAINT,
            ("torch._dynamo", "torch._inductor", "sympy", "matplotlib", "fastapi", "uvicorn", "rich", "typer", *LEAVES),
        ),
    ],
    ids=("server", "worker"),
)
def test_serving_imports_nothing_that_it_does_not_need(
    program: str, unwanted: tuple[str, ...], tiny_checkpoint: Path
) -> None:
    told = f"import sys; print(*(name for name in {unwanted} if name in sys.modules))"
    source = f"{program.replace('{weights}', str(tiny_checkpoint))}\n{told}"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from . import b", "model.x.b"),
        ("from .b import c", "model.x.b.c"),
        ("from ..y import c", "model.y.c"),
        ("import model.z", "model.z"),
    ],
)
def test_relative_imports_are_understood(source: str, expected: str) -> None:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.Import | ast.ImportFrom)
    assert list(names(node, "model.x.a", is_package=False)) == [expected]
