"""Fetches files of a Hugging Face dataset with the hub's own client, into its own cache.

Which files an address means, `rlm.hub_files` decides.
"""

import hashlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from rlm import __version__
from rlm.download import PASSING_STATUS, PATIENCE, Fetched, Passing, Patience, Progress, Ticker, patiently
from rlm.downloads import read_json, require_space, write_json, written_to
from rlm.errors import DocumentError
from rlm.hub_files import CONVERTED, Choice, Listing, choose, parse
from rlm.text_probe import one_line

if TYPE_CHECKING:
    import httpx
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")

HUB = "https://huggingface.co"


def fetch_dataset(
    argument: str,
    *,
    folder: Path,
    environ: Mapping[str, str],
    progress: Progress,
    patience: Patience = PATIENCE,
) -> list[Fetched]:
    """The files an address means, in order, all of one commit. Raises `DocumentError`.

    They lie in the hub's cache; `folder` remembers which they were, for when the hub cannot be reached.
    """
    address = parse(argument)
    memory = folder / f"{hashlib.sha256(argument.encode()).hexdigest()[:32]}.hub.json"
    with written_to(folder), _quiet_client(patience):
        hub = _Hub(address.repo, environ=environ, patience=patience)
        try:
            listing, choice = choose(hub, address)
            names = _names(address.repo, choice.paths)
            missing = {path for path in choice.paths if not hub.cached(path, choice.commit)}
            needed_bytes = sum(listing.files[path].size for path in missing)
            require_space(hub.cache, needed_bytes, instead=", or ask for less: /FILE or ?split=NAME")
            for name, path in zip(names, choice.paths, strict=True):
                if path in missing:
                    hub.download(listing, path, Ticker(progress, name, listing.files[path].size))
        except Passing as error:
            remembered = _remembered(memory)
            if remembered is None or not all(
                hub.cached(path, remembered.commit) for path in remembered.paths
            ):
                raise
            choice, names = remembered, _names(address.repo, remembered.paths)
            note = f"{error.what} The copy of commit {choice.commit[:7]} is used. {choice.note}".strip()
        else:
            note = choice.note
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_json(memory, {"commit": choice.commit, "paths": list(choice.paths), "note": choice.note})
        return [
            Fetched(
                path=Path(hub.cached(path, choice.commit)).resolve(strict=True),
                name=name,
                source=address.source,
                note="" if number else note,
            )
            for number, (name, path) in enumerate(zip(names, choice.paths, strict=True))
        ]


def _remembered(memory: Path) -> Choice | None:
    match read_json(memory):
        case {"commit": str(commit), "paths": [*paths], "note": str(note)}:
            return Choice(commit=commit, paths=tuple(map(str, paths)), note=note)
    return None


def _names(repo: str, paths: Sequence[str]) -> list[str]:
    """The dataset's name and the file's; its whole path where another file has the same name."""
    tails = [PurePosixPath(path).name for path in paths]
    dataset = repo.rpartition("/")[2]
    return [
        one_line(f"{dataset}/{tail if tails.count(tail) == 1 else path}")
        for tail, path in zip(tails, paths, strict=True)
    ]


class _NoRevision(DocumentError):
    pass


@contextmanager
def _quiet_client(patience: Patience) -> Iterator[None]:
    """The hub's client without log, warnings, telemetry and endless waits; its connections end here."""
    from huggingface_hub import close_session, constants, get_session

    def limit_waits(request: "httpx.Request") -> None:
        if request.extensions.get("timeout", {}).get("read") is None:
            limits = {"connect": patience.connect_s, "pool": None}
            request.extensions["timeout"] = {
                **limits,
                "read": patience.silence_s,
                "write": patience.silence_s,
            }

    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    hooks = get_session().event_hooks
    get_session().event_hooks = {**hooks, "request": [*hooks["request"], limit_waits]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        close_session()


class _Hub:
    """One dataset on the hub."""

    def __init__(self, repo: str, *, environ: Mapping[str, str], patience: Patience) -> None:
        from huggingface_hub import HfApi

        self.repo = repo
        self.cache = _cache_folder(environ)
        endpoint = (environ.get("HF_ENDPOINT") or HUB).rstrip("/")
        self._page = f"{endpoint}/datasets/{repo}"
        self._patience = patience
        token = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN")
        self._api = HfApi(
            endpoint=endpoint,
            token=token.strip() if token else None,
            library_name="rlm-chat",
            library_version=__version__,
        )

    def listing(self, revision: str) -> Listing:
        """The files of a branch, tag or commit."""
        from huggingface_hub import RepoFile

        def ask() -> Listing:
            info = self._api.dataset_info(self.repo, revision=revision, timeout=self._patience.silence_s)
            commit = info.sha or revision
            tree = self._api.list_repo_tree(self.repo, repo_type="dataset", revision=commit, recursive=True)
            files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
            return Listing(commit=commit, files={path: files[path] for path in sorted(files, key=_natural)})

        return self._ask(ask, f"revision {revision}")

    def conversion(self) -> Listing | None:
        """The hub's own conversion to Parquet, if it made one."""
        try:
            return self.listing(CONVERTED)
        except _NoRevision:
            return None

    def card(self, listing: Listing) -> Mapping[str, Any]:
        """The YAML at the top of the dataset's README; empty without one, or when it cannot be read."""
        import yaml  # type: ignore[import-untyped]
        from huggingface_hub.repocard import metadata_load

        if "README.md" not in listing.files:
            return {}
        if not self.cached("README.md", listing.commit):
            self.download(listing, "README.md", None)
        try:
            return metadata_load(self.cached("README.md", listing.commit)) or {}
        except (ValueError, yaml.YAMLError):
            return {}

    def cached(self, path: str, commit: str) -> str:
        """Where the cache has a file of a commit, or empty."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            self.repo, path, cache_dir=self.cache, revision=commit, repo_type="dataset"
        )
        return found if isinstance(found, str) else ""

    def download(self, listing: Listing, path: str, ticker: Ticker | None) -> None:
        """Bring a file into the cache, and check it against the hub's hash."""

        def ask() -> None:
            self._api.hf_hub_download(
                self.repo,
                path,
                repo_type="dataset",
                revision=listing.commit,
                cache_dir=self.cache,
                tqdm_class=_bar(ticker),
            )

        self._ask(ask, f"file {path}")
        pointer = Path(self.cached(path, listing.commit))
        if not _is_intact(pointer, listing.files[path]):
            pointer.resolve().unlink()
            pointer.unlink(missing_ok=True)
            raise DocumentError(
                f"{one_line(path)} of the dataset {self.repo} arrived damaged:",
                "its checksum is not the hub's.",
                hint="Run it again. If it happens again, a proxy changes what passes.",
            )

    def _ask(self, call: Callable[[], T], what: str) -> T:
        import httpx
        from huggingface_hub import errors

        def attempt() -> T:
            try:
                return call()
            except errors.LocalEntryNotFoundError as error:
                cause = error.__cause__
                if isinstance(cause, errors.HfHubHTTPError):
                    raise self._refusal(cause, what) from None
                raise self._unreachable(str(cause or error), unreachable=True) from None
            except errors.OfflineModeIsEnabled:
                raise self._unreachable("HF_HUB_OFFLINE is set", unreachable=True) from None
            except errors.HfHubHTTPError as error:
                raise self._refusal(error, what) from None
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise self._unreachable(str(error), unreachable=True) from None
            except httpx.HTTPError as error:
                raise self._unreachable(str(error), unreachable=False) from None
            except OSError as error:
                if error.errno is not None:
                    raise  # of the disk
                raise self._unreachable(str(error), unreachable=False) from None
            except (errors.HFValidationError, errors.XetDownloadError, RuntimeError) as error:
                why = one_line(str(error).partition("\n")[0])
                raise DocumentError(
                    f"The {one_line(what)} of {self.repo} cannot be fetched.", f"{why}."
                ) from None

        return patiently(attempt, patience=self._patience)

    def _unreachable(self, why: str, *, unreachable: bool) -> Passing:
        why = one_line(why.partition("\n")[0]) or "It did not answer in time"
        return Passing(
            f"{self._page} cannot be reached.",
            f"{why.rstrip('.')}.",
            hint="Check the network, and the proxy if there is one.",
            unreachable=unreachable,
        )

    def _refusal(self, error: "HfHubHTTPError", what: str) -> DocumentError:
        from huggingface_hub import errors

        status = error.response.status_code
        login = "Put a token of yours, from https://huggingface.co/settings/tokens, in HF_TOKEN (or in .env)."
        if isinstance(error, errors.GatedRepoError):
            why = "Its owner gives it only to those who accept its terms."
            hint = f"Accept them on {self._page}. {login}"
            return DocumentError(f"The dataset {self.repo} is gated.", why, hint=hint)
        if isinstance(error, errors.RevisionNotFoundError):
            return _NoRevision(f"The dataset {self.repo} has no {one_line(what)}.", hint=f"See {self._page}")
        if isinstance(error, errors.RemoteEntryNotFoundError):
            return DocumentError(f"The dataset {self.repo} has no {one_line(what)}.", hint="Check its name.")
        if status in PASSING_STATUS:
            wait = error.response.headers.get("retry-after", "")
            return Passing(
                f"{self._page} cannot be reached.",
                f"The hub answered with status {status}.",
                hint="Try again later.",
                pause_s=float(wait) if wait.isdecimal() else 0.0,
            )
        if "invalid credentials" in str(error).lower():
            why = "The token is wrong or has expired."
            return DocumentError(f"The hub refuses the dataset {self.repo}.", why, hint=login)
        if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
            hint = f"Check the name. If it is private: {login[0].lower()}{login[1:]}"
            return DocumentError(f"The hub has no dataset {self.repo}, or hides it from you.", hint=hint)
        if status == 403:
            return DocumentError(f"The hub refuses the dataset {self.repo}.", "It answered 403.", hint=login)
        return DocumentError(f"The dataset {self.repo} cannot be fetched.", f"The hub answered {status}.")


def _cache_folder(environ: Mapping[str, str]) -> Path:
    """Where the hub's client keeps its cache, by its own variables."""
    home = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{home}/huggingface"
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(cache)).expanduser().absolute()


def _natural(path: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]


def _is_intact(path: Path, entry: "RepoFile") -> bool:
    """Large files are known by their SHA-256, small ones by the hash that git gives them."""
    if entry.lfs:
        digest, expected = hashlib.sha256(), entry.lfs.sha256
    else:
        digest, expected = hashlib.sha1(usedforsecurity=False), entry.blob_id
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest() == expected


def _bar(ticker: Ticker | None) -> type:
    """What the hub's client takes for a progress bar."""

    class Bar:
        def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
            self._done_bytes = initial

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, more_bytes: float | None = 1) -> None:
            self._done_bytes += int(more_bytes or 0)
            if ticker:
                ticker.at(self._done_bytes)

        def update_transfer(self, more_bytes: int) -> None:
            """Bytes on the wire, which `update` counts once they are written."""

        def set_postfix_str(self, *_: object, **__: object) -> None:
            pass

        set_transfer_postfix_str = set_postfix_str

        def close(self) -> None:
            pass

    return Bar
