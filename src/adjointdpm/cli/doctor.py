"""`adjointdpm doctor`: what is installed, on what machine, what is missing and the command that gets it.

Exit code 1 if something is missing that the library needs (a package, the embedded model's files, a sound checksum);
what is merely optional is listed and does not count.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from adjointdpm.cli import requirements
from adjointdpm.cli.shell import Shell

VARIABLES = (
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
    "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "NO_COLOR",
)  # fmt: skip
CHECKSUMS, REINSTALL = "SHA256SUMS", "pip install --force-reinstall --no-deps adjointdpm"
MIB = 2**20


def doctor(shell: Shell) -> int:
    """Print the findings; 0 if all that is required is there, else 1."""
    document = examine()
    shell.emit(document)
    for line in report(document):
        shell.say(line)
    return 0 if document["ok"] else 1


def examine() -> dict[str, Any]:
    """Everything that `doctor` knows, as JSON-able values; `problems` holds what makes it fail."""
    from adjointdpm import __version__

    problems: list[str] = []
    packages, extras = _packages(problems)
    found: dict[str, Any] = {
        "adjointdpm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "extras": extras,
        "torchvision": _torchvision(),
        "device": _device(),
        "memory": _memory(),
        "embedded_model": _embedded_model(problems),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return {"ok": not problems, "problems": problems, **found}


def _packages(problems: list[str]) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    try:
        needed, optional = requirements.required(), requirements.extras()
    except metadata.PackageNotFoundError:
        problems.append("adjointdpm itself is not installed (it runs from a source tree): pip install -e .")
        return [], {}
    problems += [f"{package.name}: {package.problem}: {package.remedy}" for package in needed if package.problem]
    return [asdict(p) for p in needed], {group: [asdict(p) for p in members] for group, members in optional.items()}


def _torchvision() -> dict[str, Any]:
    """Not needed here, but a torchvision built for another torch breaks packages that import it when it is there."""
    package = requirements.look_up("torchvision")
    if package.found is None:
        return {"found": None, "problem": "", "remedy": ""}
    remedy = "pip uninstall torchvision, or install the build that belongs to this torch" if package.problem else ""
    return {"found": package.found, "problem": package.problem, "remedy": remedy}


def _device() -> dict[str, Any]:
    """Processors and accelerators as torch sees them; the first entry of `devices` is what --device auto takes."""
    found: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    }
    try:
        import torch
    except Exception:  # already among the problems
        return found
    cuda = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    devices = [f"cuda:{i} {card.name}, {card.total_memory // MIB} MiB" for i, card in enumerate(cuda)]
    devices += [f"cpu {platform.processor() or platform.machine()}"]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return found | {
        "devices": devices,
        "torch_threads": torch.get_num_threads(),
        "torch_cuda": torch.version.cuda,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _memory() -> dict[str, Any]:
    """Main memory and free disk space of the current folder, in MiB."""
    found = {"disk_free_mib": shutil.disk_usage(Path.cwd()).free // MIB}
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return found
    memory = psutil.virtual_memory()
    return found | {"total_mib": memory.total // MIB, "available_mib": memory.available // MIB}


def _embedded_model(problems: list[str]) -> dict[str, Any]:
    """Folder and size of the shipped model; its weights opened, and held against the list of checksums beside them."""
    from adjointdpm.cli.models import check_folder
    from adjointdpm.errors import AdjointDPMError

    try:
        from adjointdpm import zoo

        folder = Path(zoo.emoji_folder())
        check_folder(folder)
        files = sorted(file for file in folder.parent.rglob("*.safetensors"))
        verified = _verified(folder.parent / CHECKSUMS)
    except (AdjointDPMError, ImportError, AttributeError, OSError) as error:
        problems.append(f"embedded model: {error}: {REINSTALL}")
        return {"found": False, "folder": None, "size_mib": 0.0, "checksums": None, "summary": "not found or damaged"}
    size = sum(file.stat().st_size for file in files) / MIB
    checked = "not listed" if verified is None else "as shipped"
    summary = f"{folder}, {size:.1f} MiB of weights, checksums: {checked}"
    return {"found": True, "folder": str(folder), "size_mib": size, "checksums": checked, "summary": summary}


def _verified(listing: Path) -> bool | None:
    """True if the files in `listing` (lines as `sha256sum` writes them) are as listed, None if there is no listing.

    Raises `InvalidInput` naming the first file that is missing or differs.
    """
    from adjointdpm.errors import InvalidInput

    if not listing.is_file():
        return None
    for line in listing.read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        file = listing.parent / name.lstrip("*")
        if not file.is_file():
            raise InvalidInput(f"{file} is missing")
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != expected:
                raise InvalidInput(f"{file} differs from what was shipped (checksum)")
    return True


def report(document: dict[str, Any]) -> list[str]:
    """The findings as lines for people."""
    device, memory, model = document["device"], document["memory"], document["embedded_model"]
    lines = [
        f"adjointdpm {document['adjointdpm']} on Python {document['python']}, {document['platform']}",
        f"machine   {device['cores']} cores, {device.get('torch_threads', '?')} torch threads, "
        f"{memory.get('available_mib', '?')} of {memory.get('total_mib', '?')} MiB memory free, "
        f"{memory['disk_free_mib']} MiB disk free here",
    ]
    lines += [f"device    {name}" for name in device.get("devices", [])]
    lines += ["", "required packages"]
    lines += [_package_line(package, "MISSING" if package["problem"] else "ok") for package in document["packages"]]
    lines += ["", "optional packages"]
    for group, members in document["extras"].items():
        lines += [_package_line(package, f"[{group}]") for package in members]
    if document["torchvision"]["problem"]:
        lines.append(f"  torchvision: {document['torchvision']['problem']}; {document['torchvision']['remedy']}")
    lines += ["", f"embedded model: {model['summary']}"]
    if document["environment"]:
        lines += ["", "environment: " + ", ".join(f"{name}={value}" for name, value in document["environment"].items())]
    offline = document["environment"].get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
    lines.append("model hub: " + ("off (HF_HUB_OFFLINE); --model takes folders and cached ids" if offline else "on"))
    lines += ["", *(f"PROBLEM   {problem}" for problem in document["problems"])]
    lines.append("Nothing that is required is missing." if document["ok"] else "Something that is required is missing.")
    return lines


def _package_line(package: dict[str, Any], mark: str) -> str:
    state = f"{package['problem']}: {package['remedy']}" if package["problem"] else ""
    return f"  {mark:<14} {package['name']} {package['found'] or '-'}  {state}".rstrip()
