"""What runs in the container, tested outside of it. Here: documents with borders everywhere."""

from pathlib import Path

from hypothesis import settings

from sandbox.documents import Document
from sandbox.textfile import DocumentSpec

LIMIT = 1 << 20

# How long an example takes depends on what else the machine does.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def write(path: Path, data: bytes, *, encoding: str = "utf-8") -> DocumentSpec:
    path.write_bytes(data)
    status = path.stat()
    return DocumentSpec(
        name=path.name,
        path=str(path),
        source=str(path),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        encoding=encoding,
    )


def document(path: Path, data: str | bytes, *, encoding: str = "utf-8", block_bytes: int = 8) -> Document:
    """A document in small blocks and windows, so that short texts have many borders."""
    data = data.encode(encoding, "surrogatepass") if isinstance(data, str) else data
    spec = write(path, data, encoding=encoding)
    return Document(spec, str_limit_bytes=LIMIT, block_bytes=block_bytes, window_chars=64)
