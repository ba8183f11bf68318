"""The folder of downloads: what was fetched from addresses, what of it is under way, and what may go.

Files are kept by their content, so that none changes that is a document. It connects to nothing.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlm.errors import DocumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A download that has begun. `validator` is what If-Range takes: without it nothing can be resumed."""

    url: str
    validator: str
    total_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A download that has finished. `file` is relative to the folder; `fetched` is a date."""

    url: str
    etag: str
    last_modified: str
    sha256: str
    size_bytes: int
    file: str
    fetched: str


class Store:
    """The folder of downloads, as far as one address is concerned."""

    def __init__(self, folder: Path, url: str) -> None:
        key = hashlib.sha256(url.encode()).hexdigest()[:32]
        self.folder = folder
        self.part_path = folder / f"{key}.part"
        self._part_json = folder / f"{key}.part.json"
        self._copy_json = folder / f"{key}.json"

    @property
    def part_bytes(self) -> int:
        return _size_bytes(self.part_path) or 0

    def part(self) -> Part | None:
        """What can be resumed."""
        fields = read_json(self._part_json)
        return Part(**fields) if fields.keys() == _fields(Part) and self.part_bytes else None

    def begin(self, part: Part) -> None:
        """Nothing is kept of what went before."""
        self.part_path.unlink(missing_ok=True)
        self._part_json.unlink(missing_ok=True)
        if part.validator:
            write_json(self._part_json, asdict(part))

    def drop_part(self) -> None:
        self._part_json.unlink(missing_ok=True)
        self.part_path.unlink(missing_ok=True)

    def copy(self) -> Copy | None:
        """What was fetched before, if it is still here."""
        fields = read_json(self._copy_json)
        if fields.keys() != _fields(Copy):
            return None
        copy = Copy(**fields)
        return copy if _size_bytes(self.path(copy)) == copy.size_bytes else None

    def path(self, copy: Copy) -> Path:
        return self.folder / copy.file

    def finish(self, name: str, *, url: str, headers: Mapping[str, str]) -> Copy:
        """Put the part in its place by its content. A file that is there stays: it may be mounted."""
        with self.part_path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        copy = Copy(
            url=url,
            etag=headers.get("etag", ""),
            last_modified=headers.get("last-modified", ""),
            sha256=sha256,
            size_bytes=self.part_bytes,
            file=f"{sha256[:32]}/{name}",
            fetched=datetime.now(UTC).date().isoformat(),
        )
        target = self.path(copy)
        target.parent.mkdir(exist_ok=True)
        if _size_bytes(target) != copy.size_bytes:
            self.part_path.chmod(0o644)  # the container's user must be able to read it
            self.part_path.replace(target)
        self.drop_part()
        write_json(self._copy_json, asdict(copy))
        return copy


def remove_old_copies(folder: Path, *, keep: Collection[Path]) -> None:
    """Remove copies that are neither among `keep` (real paths) nor the latest of their address."""
    folder = folder.resolve()
    latest = {folder / str(read_json(path).get("file", "")) for path in folder.glob("*.json")}
    for path in folder.glob(f"{'[0-9a-f]' * 32}/*"):
        if path not in keep and path not in latest:
            with suppress(OSError):  # it is tried again the next time
                path.unlink()
                path.parent.rmdir()


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _fields(kind: type[Part] | type[Copy]) -> set[str]:
    return set(kind.__dataclass_fields__)


def read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def write_json(path: Path, fields: dict[str, object]) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(fields), encoding="utf-8")
    fresh.replace(path)


def require_space(folder: Path, needed_bytes: int, *, instead: str = "") -> None:
    """Raise `DocumentError` when so much does not fit on the disk of a folder that may not exist yet.

    `instead` ends the hint: what else there is to do than to make room.
    """
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free_bytes = shutil.disk_usage(place).free
    if needed_bytes > free_bytes:
        raise DocumentError(
            f"The disk is too full: {needed_bytes:,} bytes are needed, {free_bytes:,} are free.",
            hint=f"Make room on the disk of {folder}{instead}.",
        )


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """What the disk refuses, as a `DocumentError`."""
    try:
        yield
    except OSError as error:
        raise DocumentError(
            "The download cannot be written.",
            f"{error.strerror or error}.",
            hint=f"Make room in {folder}, or check who may write there; run it again to go on.",
        ) from None
