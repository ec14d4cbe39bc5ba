"""The import rule of CONTRIBUTING: layers import leftwards only, and the core needs torch and numpy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "adjointdpm"
LEFTMOST = {"errors", "types", "numerics", "replay"}
CHAIN = ["schedules", "models", "ode", "solvers", "gradients", "sampler", "pipelines", "tasks"]
ISLANDS = {"losses", "report", "formats", "runs"}  # import only the leftmost
OUTER = {"cli", "demo", "__main__"}
CORE = [*sorted(LEFTMOST), *CHAIN[:6]]


def allowed(layer: str) -> set[str]:
    """The layers that a layer may import, itself included."""
    if layer in LEFTMOST:
        return LEFTMOST
    if layer in ISLANDS:
        return LEFTMOST | {layer}
    if layer == "zoo":
        return LEFTMOST | {"zoo"}
    if layer in CHAIN:
        left = LEFTMOST | set(CHAIN[: CHAIN.index(layer) + 1])
        return left | ISLANDS | {"zoo"} if layer == "tasks" else left
    return LEFTMOST | set(CHAIN) | ISLANDS | OUTER | {"zoo", ""}


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


@pytest.mark.parametrize("module", ["adjointdpm", *(f"adjointdpm.{name}" for name in CORE)])
def test_core_loads_torch_and_numpy_only(module: str) -> None:
    if not ((SOURCE / module.rpartition(".")[2]).is_dir() or (SOURCE / f"{module.rpartition('.')[2]}.py").is_file()):
        assert module in {"adjointdpm", "adjointdpm.types"}, f"{module} is gone"
    heavy = "diffusers transformers peft accelerate safetensors PIL typer rich pydantic matplotlib jinja2 scipy"
    code = (
        f"import sys, torch, numpy; before = set(sys.modules)\n"
        f"import {module if module != 'adjointdpm.types' else 'adjointdpm'}\n"
        f"new = {{m.partition('.')[0] for m in set(sys.modules) - before}}\n"
        f"bad = new & set('{heavy}'.split()); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
