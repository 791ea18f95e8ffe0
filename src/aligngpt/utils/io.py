"""Files that appear complete or not at all, JSON, hashes and package versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16  # of a large file, for its fingerprint
_RECORDED_PACKAGES = ("aligngpt", "torch", "transformers")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, and move it to `path` when the block succeeds.

    Readers of `path` see the old or the new content, never a part. If the block raises, the temporary path is removed
    and `path` is unchanged. The temporary name keeps the suffix of `path`.

    Args:
        path: File or folder to write; missing parent folders are created.

    Raises:
        FileNotFoundError: The block wrote nothing.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}.tmp{target.suffix}")
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"{target}: nothing was written to its temporary path")
        apply_umask(temporary)
        _replace(temporary, target)
    finally:
        _remove(temporary)


def apply_umask(path: str | os.PathLike[str]) -> None:
    """Give a file, or every file of a folder, the mode of new files; safetensors writes mode 0600."""
    umask = os.umask(0o022)
    os.umask(umask)
    root = Path(path)
    for file in root.rglob("*") if root.is_dir() else [root]:
        if file.is_file():
            file.chmod(0o666 & ~umask)


def _replace(temporary: Path, target: Path) -> None:
    """Move `temporary` to `target`; the old content of a folder is moved away first."""
    if temporary.is_dir():
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.old")
        if target.exists():
            os.rename(target, aside)
        try:
            os.rename(temporary, target)
        except OSError:
            if aside.exists():
                os.rename(aside, target)
            raise
        _remove(aside)
        return
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())  # otherwise a crash may leave an empty file
    os.replace(temporary, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON, atomically, with keys in their order.

    An unpaired surrogate, which UTF-8 cannot encode, is written as a JSON escape.

    Raises:
        ValueError: `obj` contains NaN or infinity, which JSON cannot express.
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be written as JSON ({error}); use null for missing values") from error
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_jsonl(path: str | os.PathLike[str], records: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically; other characters than ASCII are escaped."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a UTF-8 JSON file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The content is not JSON; the message names file, line and column.
    """
    return parse_json(read_bytes(path), str(path))


def read_jsonl(path: str | os.PathLike[str]) -> list[Any]:
    """Read one JSON value per line; errors as `read_bytes`, `decode_text` and `parse_jsonl`."""
    return [value for _, value in parse_jsonl(decode_text(read_bytes(path), str(path)), str(path))]


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: The file does not exist; the message is one line.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None


def parse_json(content: bytes, source: str) -> Any:
    """Parse UTF-8 JSON, with or without a byte order mark.

    Args:
        content: The bytes of the file.
        source: Name for error messages.

    Raises:
        ValueError: `content` is not UTF-8 or not JSON; the message is `source:line:column: reason`.
    """
    text = decode_text(content, source)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}:{error.lineno}:{error.colno}: broken JSON: {error.msg}") from error
    except RecursionError:
        raise ValueError(f"{source}: JSON nested too deeply to be read") from None


def parse_jsonl(text: str, source: str) -> list[tuple[int, Any]]:
    """Parse one JSON value per line and return each with its line, from 1; blank lines are skipped.

    Raises:
        ValueError: A line is not JSON; the message is `source:line: reason`.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    values = []
    for number, line in lines:
        try:
            values.append((number, json.loads(line)))
        except json.JSONDecodeError as error:
            hint = "; the last line is truncated" if number == lines[-1][0] else ""
            message = error.msg.removesuffix(" at")
            raise ValueError(f"{source}:{number}: broken JSON: {message} at column {error.colno}{hint}") from None
        except RecursionError:
            raise ValueError(f"{source}:{number}: JSON nested too deeply to be read") from None
    return values


def decode_text(content: bytes, source: str) -> str:
    """Decode UTF-8 text, with or without a byte order mark.

    Raises:
        ValueError: It is not UTF-8; the message is `source:line: reason`.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{source}:{line}: not UTF-8 text (byte {error.start}); store the file as UTF-8") from None


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, -1 if it cannot be accessed."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: str | os.PathLike[str], patterns: Iterable[str]) -> str:
    """Return the SHA-256 of names and contents of the files in a folder that match any of the glob `patterns`.

    The hash depends neither on the path of the folder nor on the order in which the system lists it.

    Raises:
        FileNotFoundError: No file matches; otherwise any two empty folders would have the same hash.
    """
    root, patterns = Path(folder), tuple(patterns)
    names = sorted({p.relative_to(root).as_posix() for g in patterns for p in root.glob(g) if p.is_file()})
    if not names:
        raise FileNotFoundError(f"{root}: no file matches {' or '.join(patterns)}, nothing to hash")
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{hash_file(root / name)}\n".encode())
    return digest.hexdigest()


def hash_stats(paths: Iterable[Path], *settings: object) -> str:
    """Return a hash over settings, and over names, sizes and modification times of files, which are not read."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in paths:
        try:
            stat = path.stat()
            digest.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{path.absolute()}\0missing\n".encode())
    return digest.hexdigest()


def fingerprint_file(path: str | os.PathLike[str]) -> str:
    """Return size and hash of a file, `SIZE-HASH`; of a file above 1 MB, only 16 samples are hashed.

    Reads at most 1 MB, so that a checkpoint of many gigabytes is identified at once.
    """
    size = os.stat(path).st_size
    count, length = (1, size) if size <= _SAMPLES * _SAMPLE_BYTES else (_SAMPLES, _SAMPLE_BYTES)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for index in range(count):
            file.seek((size - length) * index // max(1, count - 1))
            digest.update(file.read(length))
    return f"{size}-{digest.hexdigest()[:16]}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that influence results, without importing them."""
    result = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result
