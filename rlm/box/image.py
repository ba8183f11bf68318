"""What the sandbox image is made of, and its tag: a hash of that, so that an image can never be stale.

The inputs are the Dockerfile, the code that runs inside, the protocol module, and dill, whose files are
taken from this environment: the container then has the same version, and the build needs no package index.
"""

import hashlib
import importlib.metadata
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from rlm.errors import SandboxError

REPOSITORY = "rlm-sandbox"
LOCAL_BASE = "rlm-sandbox-base:bookworm"
"""The base that scripts/make-base makes, used where the configured one cannot be pulled."""
GUEST_PACKAGES = ("dill",)

_PACKAGE = Path(__file__).resolve().parent.parent


def inputs() -> dict[str, bytes]:
    """The build context: path → contents. The same from a checkout and from an installed wheel."""
    installed = _PACKAGE / "_image"
    root = installed if installed.is_dir() else _PACKAGE.parent
    files = {
        "Dockerfile": (root / "Dockerfile").read_bytes(),
        "rlm/protocol.py": (_PACKAGE / "protocol.py").read_bytes(),
    }
    for path in sorted((root / "sandbox").glob("**/*.py")):
        files[f"sandbox/{path.relative_to(root / 'sandbox').as_posix()}"] = path.read_bytes()
    for package in GUEST_PACKAGES:
        files |= _package_files(package)
    return files


def _package_files(name: str) -> dict[str, bytes]:
    try:
        listed = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise SandboxError(
            f"The package {name} is missing.",
            "The image gets its copy from here.",
            hint=f"pip install {name}",
        ) from None
    return {
        f"packages/{path.as_posix()}": Path(str(path.locate())).read_bytes()
        for path in listed
        if path.suffix == ".py" and path.parts[0] == name and "tests" not in path.parts
    }


def tag(files: Mapping[str, bytes], base: str) -> str:
    """`rlm-sandbox:<hash>` of the build context and the base's name."""
    digest = hashlib.sha256(base.encode())
    for path, contents in sorted(files.items()):
        digest.update(f"\0{path}\0{len(contents)}\0".encode())
        digest.update(contents)
    return f"{REPOSITORY}:{digest.hexdigest()[:12]}"


def context(files: Mapping[str, bytes]) -> io.BytesIO:
    """The build context as an uncompressed tar, with neither times nor owners of this machine in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
        for folder in sorted(folders):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for path, contents in sorted(files.items()):
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(contents), 0o644
            tar.addfile(info, io.BytesIO(contents))
    buffer.seek(0)
    return buffer
