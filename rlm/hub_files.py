"""Which files of a Hugging Face dataset an address means: named ones, a split, or all that is data.

It decides by paths and by the dataset's card. It asks the hub through what it is given, runs no script of a
dataset and reads no data file.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, unquote

from rlm.errors import DocumentError
from rlm.text_probe import one_line

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

CONVERTED = "refs/convert/parquet"
"""The branch where the hub keeps its own conversion of a dataset, as `<config>/<split>/0000.parquet`."""
DATA = re.compile(r"\.(parquet|csv|tsv|jsonl?|ndjson|txt)(\.(gz|bz2|xz|zst))?$", re.IGNORECASE)
NOT_DATA = {
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "license.txt",
    "readme.txt",
    "requirements.txt",
    "state.json",
}
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The usual splits, and the words that mean them in file names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What an `hf://` address asks for. Empty: everything, or what the dataset says is the default."""

    source: str
    repo: str
    revision: str = ""
    path: str = ""
    splits: tuple[str, ...] = ()
    config: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of one commit, in natural order (`train-2` before `train-10`)."""

    commit: str
    files: Mapping[str, "RepoFile"]

    @property
    def data(self) -> list[str]:
        return [path for path in self.files if _is_data(path)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What of a dataset was meant: files of one commit."""

    commit: str
    paths: tuple[str, ...]
    note: str = ""


class Hub(Protocol):
    """One dataset on the hub, as far as is asked here. All raise `DocumentError`."""

    def listing(self, revision: str) -> Listing:
        """The files of a branch, tag or commit."""

    def conversion(self) -> Listing | None:
        """The hub's own conversion to Parquet, if it made one."""

    def card(self, listing: Listing) -> Mapping[str, Any]:
        """The YAML at the top of the dataset's README; empty without one, or when it cannot be read."""


def parse(argument: str) -> Address:
    """`hf://datasets/OWNER/NAME[@REVISION][/PATH][?split=A,B&config=C]`. Raises `DocumentError`."""
    form = "hf://datasets/OWNER/NAME[@REVISION][/FILE][?split=NAME]"
    source = one_line(argument)
    place, _, query = argument[len("hf://") :].partition("?")
    kind, _, rest = place.partition("/")
    if kind != "datasets":
        what = "not a dataset" if kind in ("models", "spaces", "buckets", "kernels") else "not an address"
        raise DocumentError(f"{source} is {what} of the hub that can be read.", hint=f"Datasets can: {form}.")
    name = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
    match = re.fullmatch(
        rf"(?P<repo>{name}/{name}|{name}(?=@|/?$))(@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?/?(?P<path>.*)",
        rest,
    )
    if not match or "//" in match["path"] or ".." in match["path"].split("/"):
        raise DocumentError(f"{source} does not name a dataset.", hint=f"It looks like {form}.")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if query and (not asked or asked.keys() - {"split", "config"} or not all(asked.values())):
        hint = "After ? there may be split=NAME[,NAME] and &config=NAME; write %3F for a ? in a file's name."
        raise DocumentError(f"{source} asks for something unknown.", hint=hint)
    splits = (split.strip() for split in asked.get("split", "").split(","))
    return Address(
        source=source,
        repo=match["repo"],
        revision=unquote(match["revision"] or ""),
        path=unquote(match["path"]).rstrip("/"),
        splits=tuple(dict.fromkeys(split for split in splits if split)),
        config=asked.get("config", ""),
    )


# ---- which files---


def choose(hub: Hub, address: Address) -> tuple[Listing, Choice]:
    """The files an address means, and the listing they are in. Raises `DocumentError`."""
    listing = hub.listing(address.revision or "main")
    if address.path:
        paths = _below(address, listing)
        if address.splits:
            paths = _all_splits(address, {split: of_split(paths, split) for split in address.splits}, paths)
        return listing, Choice(commit=listing.commit, paths=tuple(paths))
    if not address.splits and not address.config:
        if listing.data:
            return listing, Choice(commit=listing.commit, paths=tuple(listing.data))
        return _converted(hub, address, listing, known=[])
    configs = card_configs(hub.card(listing), list(listing.files))
    known: list[str] = []  # the splits there are, for when the one that is asked for is not among them
    for name, by_split in configs.items():
        if address.config in ("", name) and all(by_split.get(split) for split in address.splits):
            wanted = [path for split in address.splits or by_split for path in by_split[split]]
            if wanted:
                return listing, Choice(commit=listing.commit, paths=tuple(dict.fromkeys(wanted)))
        known += [split for split, paths in by_split.items() if paths and address.config in ("", name)]
    data = listing.data
    if address.config:
        data = [path for path in data if _has_word(path, address.config)]
    found = {split: of_split(data, split) for split in address.splits}
    if data and all(found.values()):
        wanted = [path for split in address.splits for path in found[split]] or data
        return listing, Choice(commit=listing.commit, paths=tuple(dict.fromkeys(wanted)))
    return _converted(hub, address, listing, known=[*known, *splits_of(data)], configs=list(configs))


def _converted(
    hub: Hub, address: Address, listing: Listing, *, known: list[str], configs: Sequence[str] = ()
) -> tuple[Listing, Choice]:
    """The hub's conversion of the dataset, or why there is nothing to read."""
    converted = None if address.revision else hub.conversion()
    tree = _conversion_tree(converted.data if converted else ())
    possible = [config for config in tree if address.config in ("", config)]
    fitting = [config for config in possible if all(split in tree[config] for split in address.splits)]
    if converted and fitting:
        everything = not address.config and not address.splits
        paths = [
            path
            for config in (fitting if everything else fitting[:1])
            for split in address.splits or tree[config]
            for path in tree[config][split]
        ]
        partial = any("/partial-" in path for path in paths)
        note = "The hub converted only the first part of this dataset." if partial else ""
        return converted, Choice(commit=converted.commit, paths=tuple(paths), note=note)
    known += [split for config in possible for split in tree[config]]
    if known:
        raise _no_split(address, known)
    if address.config:
        raise _no_config(address, [*configs, *tree])
    raise _no_data(address, listing)


def _conversion_tree(paths: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Config → split → files, the default config first. Of a large dataset only a part is converted."""
    tree: dict[str, dict[str, list[str]]] = {}
    for path in paths:
        match path.split("/"):
            case [config, split, _]:
                tree.setdefault(config, {}).setdefault(split.removeprefix("partial-"), []).append(path)
    return dict(sorted(tree.items(), key=lambda entry: entry[0] != "default"))


def _below(address: Address, listing: Listing) -> list[str]:
    """The file of that path, the data files of that folder, or what the pattern matches."""
    if address.path in listing.files:
        return [address.path]
    inside = [path for path in listing.data if path.startswith(f"{address.path}/")]
    if paths := inside or [path for path in listing.files if matches(path, address.path)]:
        return paths
    near = difflib.get_close_matches(address.path, listing.files, n=3, cutoff=0.6)
    tail = PurePosixPath(address.path).name
    near += [path for path in listing.files if PurePosixPath(path).name == tail and path not in near]
    hint = f"Did you mean {' or '.join(map(one_line, near[:3]))}?" if near else _some(listing.files)
    raise DocumentError(f"The dataset {address.repo} has no file {one_line(address.path)}.", hint=hint)


def _all_splits(address: Address, found: Mapping[str, list[str]], paths: Sequence[str]) -> list[str]:
    if not all(found.values()):
        raise _no_split(address, splits_of(paths))
    return list(dict.fromkeys(path for of_one in found.values() for path in of_one))


def _no_split(address: Address, known: Iterable[str]) -> DocumentError:
    names = ", ".join(map(one_line, dict.fromkeys(known)))
    asked = ", ".join(map(one_line, address.splits))
    of = f", config {one_line(address.config)}," if address.config else ""
    hint = f"Its splits are: {names}." if names else "Leave ?split= out for all its data files."
    return DocumentError(f"The dataset {address.repo}{of} has no split {asked}.", hint=hint)


def _no_config(address: Address, known: Iterable[str]) -> DocumentError:
    names = ", ".join(map(one_line, dict.fromkeys(known)))
    hint = f"Its configs are: {names}." if names else "Leave config= out."
    return DocumentError(f"The dataset {address.repo} has no config {one_line(address.config)}.", hint=hint)


def _no_data(address: Address, listing: Listing) -> DocumentError:
    why = "It holds no Parquet, CSV, TSV, JSON or text files, and the hub has no Parquet conversion of it."
    if any(path.endswith(".py") for path in listing.files):
        why = "A script makes it, which is never run, and the hub has no Parquet conversion of it."
    return DocumentError(f"The dataset {address.repo} cannot be read.", why, hint=_some(listing.files))


def _some(paths: Iterable[str]) -> str:
    names = [one_line(path) for path in paths if not path.startswith(".")]
    more = " …" if len(names) > 5 else ""
    return f"Its files are: {', '.join(names[:5])}{more}" if names else "It is empty."


def _is_data(path: str) -> bool:
    return bool(DATA.search(path)) and not _is_about(path)


def _is_about(path: str) -> bool:
    """Whether it is about the data, or makes it: cards, scripts, hidden files."""
    parts = path.lower().split("/")
    hidden = any(part.startswith((".", "__")) for part in parts)
    return hidden or parts[-1] in NOT_DATA or parts[-1].endswith((".md", ".py"))


def card_configs(card: Mapping[str, Any], paths: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """What the dataset's card says: config → split → files, the default config first."""
    configs = card.get("configs")
    named = [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []
    named.sort(key=lambda config: not (config.get("default") or config.get("config_name") == "default"))
    return {str(config.get("config_name", "default")): _config_splits(config, paths) for config in named}


def _config_splits(config: Mapping[str, Any], paths: Sequence[str]) -> dict[str, list[str]]:
    folder = str(config.get("data_dir") or "").strip("/")
    files = config.get("data_files")
    if files is None:
        inside = [
            path for path in paths if _is_data(path) and path.startswith(f"{folder}/" if folder else "")
        ]
        return {split: of_split(inside, split) for split in splits_of(inside)}
    by_split: dict[str, list[str]] = {}
    for entry in files if isinstance(files, list) else [files]:
        known = entry if isinstance(entry, dict) else {"path": entry}
        patterns = known.get("path")
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            whole = str(PurePosixPath(folder, str(pattern)))
            found = [
                path for path in paths if path == whole or (matches(path, whole) and not _is_about(path))
            ]
            by_split.setdefault(str(known.get("split", "train")), []).extend(found)
    return by_split


def matches(path: str, pattern: str) -> bool:
    """Whether a path matches a pattern, in which `*` stays within a folder and `**` does not."""
    return _match(path.split("/"), pattern.removeprefix("./").split("/"))


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_match(parts[skip:], patterns[1:] or ["*"]) for skip in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])


def of_split(paths: Sequence[str], split: str) -> list[str]:
    """The files that belong to a split by their names: by its own name, else by another word for it.

    As on the hub, files of which none names a split are `train`.
    """
    for words in ((split,), SPLITS.get(split, ())):
        sharded = [path for path in paths if _shards_of(path) in words]
        if found := sharded or [path for path in paths if _belongs(path, words)]:
            return found
    return list(paths) if split == "train" and splits_of(paths) == ["train"] else []


def splits_of(paths: Sequence[str]) -> list[str]:
    """The splits that files seem to belong to."""
    found = []
    for path in paths:
        usual = [split for split, words in SPLITS.items() if _belongs(path, words)]
        found += [_shards_of(path)] if _shards_of(path) else usual
    return list(dict.fromkeys(found)) or (["train"] if paths else [])


def _shards_of(path: str) -> str:
    """`train_sft` for `data/train_sft-00000-of-00003.parquet`, empty for what is no shard."""
    match = re.match(r"(.+)-\d{5}-of-\d{5}\b", PurePosixPath(path).name)
    return match[1] if match else ""


def _belongs(path: str, words: Iterable[str]) -> bool:
    """By a word of the file's name; when that names no split, by one of its folders' names."""
    folder, _, name = path.rpartition("/")
    if any(_has_word(name, word) for word in words):
        return True
    named = any(_has_word(name, word) for all_words in SPLITS.values() for word in all_words)
    return not named and any(_has_word(folder, word) for word in words)


def _has_word(text: str, word: str) -> bool:
    return bool(re.search(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])", text, re.IGNORECASE))
