"""What `init` can be given instead of a path: addresses, each fetched into local files first.

It decides who fetches what. `rlm.download` speaks to web servers, `rlm.hub` to the Hugging Face hub.
"""

from collections.abc import Mapping
from pathlib import Path

from rlm.download import PATIENCE, Fetched, Patience, Progress, fetch_url
from rlm.kinds import is_address

__all__ = ["Fetched", "Patience", "Progress", "fetch", "is_address"]


def fetch(
    argument: str,
    *,
    folder: Path,
    environ: Mapping[str, str],
    progress: Progress,
    patience: Patience = PATIENCE,
) -> list[Fetched]:
    """The files behind an address, on the disk. Blocks; raises `DocumentError`.

    What comes from a web server is kept in `folder` (made when missing, for its owner alone), a dataset in
    the hub's own cache. `environ` is where the hub's token, address and cache are looked up. `progress` is
    called at most about ten times a second. KeyboardInterrupt comes through.
    """
    if argument.lower().startswith("hf://"):
        from rlm.hub import fetch_dataset

        return fetch_dataset(argument, folder=folder, environ=environ, progress=progress, patience=patience)
    return [fetch_url(argument, folder=folder, progress=progress, patience=patience)]
