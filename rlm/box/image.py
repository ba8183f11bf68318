"""What the sandbox image is made of, and its tag: a hash of that, so that an image can never be stale.

The inputs are the Dockerfile, the code that runs inside, the modules that both sides share, and the names of
the Python packages. It fetches no package and builds nothing: `rlm.box.packages` and `rlm.box.engine_api` do.
"""

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from rlm.box.packages import EXTRA, OWN

REPOSITORY = "rlm-sandbox"
LOCAL_BASE = "rlm-sandbox-base:bookworm"
"""The base that scripts/make-base makes, used where the configured one cannot be pulled."""
SHARED = ("protocol.py", "formats.py", "text_probe.py", "charsets.py")
"""Modules of this side that the sandbox runs too."""

_PACKAGE = Path(__file__).resolve().parent.parent


def inputs(packages: Sequence[str] = ()) -> dict[str, bytes]:
    """The build context without wheels: path → contents. The same from a checkout and an installed wheel.

    `packages` are those of the setting sandbox.packages; their order does not matter.
    """
    installed = _PACKAGE / "_image"
    root = installed if installed.is_dir() else _PACKAGE.parent
    files = {
        "Dockerfile": (root / "Dockerfile").read_bytes(),
        **{f"rlm/{name}": (_PACKAGE / name).read_bytes() for name in SHARED},
        OWN: (root / "sandbox" / "requirements.txt").read_bytes(),
        EXTRA: "".join(f"{line}\n" for line in sorted({item.strip() for item in packages})).encode(),
    }
    for path in sorted((root / "sandbox").glob("**/*.py")):
        files[f"sandbox/{path.relative_to(root / 'sandbox').as_posix()}"] = path.read_bytes()
    return files


def tag(files: Mapping[str, bytes], base: str) -> str:
    """`rlm-sandbox:<hash>` of the build context and the base's name."""
    digest = hashlib.sha256(base.encode())
    for path, contents in sorted(files.items()):
        digest.update(f"\0{path}\0{len(contents)}\0".encode())
        digest.update(contents)
    return f"{REPOSITORY}:{digest.hexdigest()[:12]}"


def context(files: Mapping[str, bytes], wheels: Mapping[str, Path]) -> IO[bytes]:
    """The build context as an uncompressed tar, with neither times nor owners of this machine in it.

    `wheels` are files of the host by their path in the context. They can be large, so the tar is a file;
    it is gone when it is closed.
    """
    archive = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who asked for it
    with tarfile.open(fileobj=archive, mode="w") as tar:
        paths = sorted({*files, *wheels})
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"."}
        for folder in sorted(folders):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for path in paths:
            info = tarfile.TarInfo(path)
            info.mode = 0o644
            with io.BytesIO(files[path]) if path in files else wheels[path].open("rb") as source:
                info.size = source.seek(0, io.SEEK_END)
                source.seek(0)
                tar.addfile(info, source)
    archive.seek(0)
    return archive
