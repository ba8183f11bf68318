"""Compressed files, read as streams in constant memory, and streams of any kind made into a part.

What is compressed may be a text, a tar, or a file that its converter reads from a temporary copy. It is
decompressed once: what is compressed again inside is not looked into.
"""

import bz2
import gzip
import importlib
import lzma
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from rlm.formats import FORMATS, kind_of, suffix, unpacked_name
from rlm.text_probe import NotText
from sandbox.convert import convert_document
from sandbox.convert.output import PIECE_BYTES, ConvertError, Item, Output
from sandbox.convert.plain import BLOCK_BYTES, Peekable, Readable, encoding_of, note_replaced, write_decoded


@contextmanager
def unpacked(path: str, kind: str) -> Iterator[Readable]:
    """What a compressed file holds; `kind` is `gz`, `bz2`, `xz` or `zst`.

    Reading raises `EOFError`, `OSError`, `zlib.error` or `lzma.LZMAError` for a damaged file; zstd, which may
    only learn at the end of it, `ConvertError` when the block ends.
    """
    match kind:
        case "gz":
            with gzip.open(path) as file:
                yield file
        case "bz2":
            with bz2.open(path) as file:
                yield file
        case "xz":
            with lzma.open(path) as file:
                yield file
        case "zst":
            with _zstd(path) as file:
                yield file
        case _:
            raise ConvertError(f"is compressed in a way that is not known: {kind}")


@contextmanager
def _zstd(path: str) -> Iterator[Readable]:
    """Through the standard library where it can (Python 3.14), else through the program `zstd`."""
    try:
        module = importlib.import_module("compression.zstd")
    except ImportError:
        command = ["zstd", "-dcq", "--", path]
    else:
        with module.open(path) as file:
            yield file
        return
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise ConvertError("needs the program zstd to be read: decompress it on the host") from None
    with process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode not in (0, -signal.SIGPIPE):  # SIGPIPE: the reader had enough
        raise ConvertError(
            "cannot be read as Zstandard: it is damaged or incomplete, or its window is over 128 MB (--long)"
        )


@contextmanager
def temporary(stream: Readable, ending: str) -> Iterator[str]:
    """The path of a copy of a stream in /tmp, for libraries that read files. `ending` is its suffix."""
    with tempfile.NamedTemporaryFile(prefix="unpacked-", suffix=ending) as copy:
        while data := stream.read(BLOCK_BYTES):
            copy.write(data)
        copy.flush()
        yield copy.name


@contextmanager
def inside(stream: Peekable, name: str) -> Iterator[tuple[Peekable, str, str]]:
    """The stream, or if it is compressed the one inside it; its name and its kind."""
    kind = kind_of(stream.peek(), name)
    if not FORMATS[kind].packed:
        yield stream, name, kind
        return
    with temporary(stream, f".{kind}") as path, unpacked(path, kind) as content:
        stream, name = Peekable(content), unpacked_name(name)
        yield stream, name, kind_of(stream.peek(), name)


def convert_stream(
    stream: Peekable,
    name: str,
    kind: str,
    output: Output,
    *,
    part_name: str = "",
    encoding: str = "",
    held_bytes: int = PIECE_BYTES,
) -> None:
    """Make one part of a stream of a kind, `encoding` being the one that the user named.

    Raises `ConvertError`, `NotText`, and whatever its parser raises.
    """
    known = FORMATS[kind]
    if known.holds_files:
        raise ConvertError("is an archive inside an archive: unpack it and load it by itself")
    if known.packed:
        raise ConvertError("is compressed twice: decompress it once and load that")
    if known.plain:
        encoding = encoding_of(stream, named=encoding)
        with output.part(part_name, kind=kind, encoding=encoding, held_bytes=held_bytes) as part:
            replaced = write_decoded(stream, encoding, part.write)
        note_replaced(output, replaced, encoding, name=part_name)
        return
    ending = suffix(name) if suffix(name) in known.suffixes else known.suffixes[0]
    # Of a Parquet file that is packed only the rows are left, as CSV: nothing can read it where it is.
    told = "csv" if kind == "parquet" else kind
    with temporary(stream, ending) as path, output.part(part_name, kind=told, held_bytes=held_bytes) as part:
        convert_document(kind, path, part, encoding=encoding)


def convert_packed(item: Item, output: Output) -> None:
    """What a compressed file holds: one part, or for a tar those of its members."""
    from sandbox.convert import archives  # which makes use of this module

    with unpacked(item.path, item.kind) as content:
        stream, name = Peekable(content), unpacked_name(item.name)
        kind = kind_of(stream.peek(), name)
        match kind:
            case "tar":
                archives.convert_tar(stream, output, encoding=item.encoding)
            case "zip":
                with temporary(stream, ".zip") as path:
                    archives.convert_zip(path, output, encoding=item.encoding)
            case _:
                try:
                    convert_stream(stream, name, kind, output, encoding=item.encoding)
                except NotText as error:
                    raise NotText(f"a compressed file that holds {error.kind}", error.hint) from None
