"""Files that are there whole or not at all, and tensors without pickle.

A file is written beside its final name, flushed to the disk, and renamed over it: after a crash or a full disk the old
file is still the old file.  Tensors are stored as safetensors only, because loading a pickle runs whatever code is in
it; a pickled or damaged file is refused by name, with the reason.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from adjointdpm.errors import AdjointDPMError, InvalidInput

__all__ = ["OutputError", "atomic_write", "load_tensors", "save_tensors", "write_failure"]

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
}


class OutputError(AdjointDPMError, OSError):
    """A file could not be written, or its folder is in use; what was there before is untouched."""


def write_failure(path: Path, error: OSError) -> OutputError:
    """The error to raise for `error`: which file, why, what to do, and that the previous version stands."""
    why = _REMEDY.get(error.errno or 0, f"the system says: {error.strerror or error}")
    return OutputError(f"cannot write {path}: {why}. What was saved there before is unchanged.")


def atomic_write(path: Path | str, data: bytes | str) -> Path:
    """Write `data` to `path` so that a reader, or a crash at any moment, sees the old file or the new one.

    Text is encoded as UTF-8.  Raises `OutputError` (an `OSError`) on a full disk, a read-only one or a missing
    permission; the partial file is removed and the old one kept.
    """
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    partial: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.", suffix=".partial")
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())  # mkstemp makes private files; these are ordinary ones
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        if partial is not None:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        raise write_failure(path, error) from error
    return path


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
                raise
        finally:
            os.close(handle)


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write named tensors (any shape and dtype; copied to CPU, contiguous) as one safetensors file, atomically.

    The same tensors and metadata give the same bytes.
    """
    from safetensors.torch import save

    flat = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    if not metadata:
        return atomic_write(path, save(flat))
    return atomic_write(path, _in_order(save(flat, metadata=dict(metadata))))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with the keys of its metadata sorted: the library writes them in an order by chance."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors behind it stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata strings.

    Raises `InvalidInput` naming the file if it is missing, pickled (`.pt`, `.bin`, `.ckpt`), truncated or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"no file {path}; expected a .safetensors file")
    with path.open("rb") as file:
        head = file.read(9)
    # A pickle starts with its protocol opcode, torch.save's archive with a ZIP header.  A safetensors file starts with
    # the length of its header, which may have the same two bytes (640, 896 …), and then that header: "{".
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and head[8:] != b"{"
    if pickled or head[:4] == b"PK\x03\x04":
        raise InvalidInput(
            f"{path} is a pickled file: loading it could run any code, so it is refused. "
            "Convert it to safetensors where it came from (safetensors.torch.save_file) and pass that file."
        )
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise InvalidInput(
            f"{path} is not a readable safetensors file ({error}). It may be cut short or damaged: "
            "fetch or write it again."
        ) from error
