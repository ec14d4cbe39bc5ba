"""The import rule of CONTRIBUTING: layers import leftwards only, and the core needs torch and numpy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "adjointdpm"
LEFTMOST = {"errors", "types", "numerics", "replay"}
CHAIN = ["schedules", "models", "ode", "solvers", "gradients", "sampler", "pipelines", "tasks"]
ISLANDS = {"losses", "report", "formats", "runs"}  # import only the leftmost, and `runs` for its atomic files
OUTER = {"cli", "demo", "__main__"}
CORE = [*sorted(LEFTMOST), *CHAIN[:6]]


def allowed(layer: str) -> set[str]:
    """The layers that a layer may import, itself included."""
    if layer in LEFTMOST:
        return LEFTMOST
    if layer in ISLANDS:
        return LEFTMOST | {"runs", layer}
    if layer == "zoo":
        return LEFTMOST | {"zoo"}
    if layer in CHAIN:
        left = LEFTMOST | set(CHAIN[: CHAIN.index(layer) + 1])
        return left | ISLANDS | {"zoo"} if layer == "tasks" else left
    return LEFTMOST | set(CHAIN) | ISLANDS | OUTER | {"zoo", "", "__version__"}


def imports_of(path: Path) -> set[str]:
    """Top-level packages of ours and of others that a file imports at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "adjointdpm" else {module}
    return found


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.name != "__init__.py" or p.parent != SOURCE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_left(path: Path) -> None:
    layer = layer_of(path)
    names = [name.split(".") for name in imports_of(path)]
    ours = {(parts[1] if len(parts) > 1 else "") for parts in names if parts[0] == "adjointdpm"}
    assert ours <= allowed(layer), f"{layer} may not import {sorted(ours - allowed(layer))}"


def test_every_file_belongs_to_a_known_layer() -> None:
    known = LEFTMOST | set(CHAIN) | ISLANDS | OUTER | {"zoo"}
    assert {layer_of(p) for p in FILES} <= known


def test_core_loads_torch_and_numpy_only() -> None:
    names = [
        "adjointdpm",
        *(f"adjointdpm.{n}" for n in CORE if (SOURCE / n).is_dir() or (SOURCE / f"{n}.py").is_file()),
    ]
    heavy = "diffusers transformers peft accelerate safetensors PIL typer rich pydantic matplotlib jinja2 scipy"
    code = f"""
import importlib, sys, torch, numpy
before = set(sys.modules)
for name in {names}:
    importlib.import_module(name)
    loaded = {{module.partition(".")[0] for module in set(sys.modules) - before}} & set("{heavy}".split())
    assert not loaded, (name, loaded)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_the_package_are_what_they_say() -> None:
    code = """
import adjointdpm as ad, importlib
importlib.import_module("adjointdpm.replay.context")
assert callable(ad.replay), ad.replay
for name in ad.__all__:
    assert getattr(ad, name) is not None, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
