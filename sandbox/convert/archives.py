"""The files in a zip or tar, each made a part under its path in the archive.

Nothing is unpacked to a path that an archive names, links are not followed, and archives within archives are
not looked into. What cannot be read alone is left out with the reason.
"""

import io
import stat
import tarfile
import zipfile
from collections import Counter
from pathlib import PurePosixPath
from typing import Self

from rlm.formats import FORMATS
from rlm.text_probe import one_line
from sandbox.convert import convert_document
from sandbox.convert.output import ConvertError, Item, Output, as_convert_error
from sandbox.convert.packed import convert_stream, inside
from sandbox.convert.plain import BLOCK_BYTES, Peekable, Readable

MAX_MEMBERS = 100_000
HELD_BYTES = 16 * 1024 * 1024
"""How much text of a member is held back: one that turns out to be damaged by then is left out alone."""
MAX_NAME_CHARS = 1000
ENCRYPTED = 0x1
"""The bit of a zip member's flags."""

_NOISE = ("__MACOSX", ".DS_Store")
_OFFICE_FOLDERS = {"word": "docx", "xl": "xlsx", "ppt": "pptx"}
_MIMETYPES = {
    b"application/epub+zip": "epub",
    b"application/vnd.oasis.opendocument.spreadsheet": "xlsx",
}


def convert_archive(item: Item, output: Output) -> None:
    """The members of a zip or tar; the text of an Office file or book that is a zip by its name only."""
    if item.kind == "tar":
        with open(item.path, "rb") as file:
            convert_tar(Peekable(file), output, encoding=item.encoding)
    elif kind := _document_kind(item.path):
        with as_convert_error(FORMATS[kind].label), output.part(kind=kind) as part:
            convert_document(kind, item.path, part)
    else:
        convert_zip(item.path, output, encoding=item.encoding)


def _document_kind(path: str) -> str:
    """The kind of a document that is stored as a zip, empty for an archive of files."""
    with zipfile.ZipFile(path) as archive:
        names = archive.NameToInfo
        if "mimetype" in names and not names["mimetype"].flag_bits & ENCRYPTED:
            with archive.open("mimetype") as file:
                return _MIMETYPES.get(file.read(100).strip(), "")
        if "[Content_Types].xml" in names:
            folders = {name.partition("/")[0] for name in names}
            return next((kind for folder, kind in _OFFICE_FOLDERS.items() if folder in folders), "")
    return ""


def convert_zip(path: str, output: Output, *, encoding: str = "") -> None:
    """A part for each member, in the order of the archive's directory."""
    members = _Members(output, encoding=encoding)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = members.name(_zip_name(info))
            mode = info.external_attr >> 16 if info.create_system == 3 else 0
            if info.is_dir() or _is_noise(name):
                continue
            if stat.S_ISLNK(mode):
                members.skip(name, "is a link")
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                members.skip(name, "is a device or pipe, not a file")
            elif info.flag_bits & ENCRYPTED:
                members.encrypted = True
                members.skip(name, "is encrypted")
            else:
                members.read_zipped(name, archive, info)
    members.require_some()


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a member; many programs write UTF-8 without saying so, which is read as cp437."""
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def convert_tar(stream: Peekable, output: Output, *, encoding: str = "") -> None:
    """A part for each member, in their order. What is damaged somewhere cannot be read at all."""
    members = _Members(output, encoding=encoding)
    source = _Source(stream)
    with tarfile.open(fileobj=source, mode="r|", bufsize=BLOCK_BYTES, tarinfo=_TarMember) as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it keeps all of them otherwise
            name = members.name(info.name)
            if info.isdir() or _is_noise(name):
                continue
            if info.issym() or info.islnk():
                members.skip(name, "is a link")
            elif not info.isreg():
                members.skip(name, "is a device or pipe, not a file")
            else:
                file = archive.extractfile(info)
                assert file is not None
                members.read(name, file)
            if source.failure is not None:
                raise source.failure
    members.require_some()


class _TarMember(tarfile.TarInfo):
    """A member whose header must be whole: `TarFile.next` takes a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from None
            raise  # zeros end an archive


class _Source(io.RawIOBase):
    """What a tar is read from. It remembers a failure, behind which nothing of the archive makes sense.

    The end is told once only: `tarfile` skips a member by reading as many bytes as its header says, which may
    be exabytes, and does not look whether any come.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._ended = False
        self.failure: Exception | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self._stream.read(size)
            if not data and self._ended:
                raise EOFError("the archive is cut off")
        except Exception as error:
            self.failure = error
            raise
        self._ended = not data
        return data


class _Members:
    """Makes parts of an archive's members, one after the other, and tells what was left out."""

    def __init__(self, output: Output, *, encoding: str) -> None:
        self._output = output
        self._encoding = encoding
        self._count = 0
        self._names: Counter[str] = Counter()
        self._left_out = 0
        self._first_left_out = ""
        self.encrypted = False

    def name(self, stored: str) -> str:
        """A name that is safe, for the next member. Raises `ConvertError` when there are too many."""
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise ConvertError(f"holds more than {MAX_MEMBERS:,} files: unpack it and load a part of them")
        return _safe_name(stored)

    def skip(self, name: str, reason: str) -> None:
        self._left_out += 1
        self._first_left_out = self._first_left_out or f"{name} {reason}"
        self._output.skip(name, reason)

    def read_zipped(self, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        try:
            with as_convert_error("a member of a zip"):
                file = archive.open(info)
        except ConvertError as error:
            self.skip(name, str(error))
        else:
            with file:
                self.read(name, file)

    def read(self, name: str, file: Readable) -> None:
        """Make a part of a member, or leave it out. Raises `ConvertError` if a part of it is sent already."""
        parts = self._output.parts
        try:
            with as_convert_error("a compressed file"):
                self._convert(name, Peekable(file))
        except ConvertError as error:
            if self._output.full:
                raise
            if self._output.parts > parts:
                raise ConvertError(f"holds {name}, which {error}") from error
            self.skip(name, str(error))

    def _convert(self, name: str, file: Peekable) -> None:
        with inside(file, name) as (stream, inner_name, kind), as_convert_error(FORMATS[kind].label):
            convert_stream(
                stream,
                inner_name,
                kind,
                self._output,
                part_name=self._unique(name),
                encoding=self._encoding,
                held_bytes=HELD_BYTES,
            )

    def _unique(self, name: str) -> str:
        """The name, with a number if an earlier part has it."""
        unique = name
        while self._names[unique]:
            self._names[name] += 1
            unique = f"{name} ({self._names[name]})"
        self._names[unique] = 1
        return unique

    def require_some(self) -> None:
        """Raises `ConvertError` when nothing was read."""
        if self._output.parts:
            return
        if self.encrypted:
            raise ConvertError("is encrypted: unpack it with its password and load what it holds")
        if not self._left_out:
            raise ConvertError("holds no files")
        raise ConvertError(
            f"holds nothing that can be read; {self._left_out:,} left out, the first: {self._first_left_out}"
        )


def _is_noise(name: str) -> bool:
    """Whether a member is what macOS adds to the files of the user."""
    return any(part in _NOISE for part in PurePosixPath(name).parts)


def _safe_name(stored: str) -> str:
    """A name that leads nowhere: without a root, `..`, control characters, or more than 1,000 characters."""
    parts = (part for part in stored.replace("\\", "/").split("/") if part not in ("", ".", ".."))
    name = one_line("/".join(parts)) or "unnamed"
    return name if len(name) <= MAX_NAME_CHARS else "…" + name[1 - MAX_NAME_CHARS :]
