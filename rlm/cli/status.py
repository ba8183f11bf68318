"""`rlm status`: what is loaded, kept and spent. Quick, needs neither the lock nor Docker nor litellm."""

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from rlm.cli.options import Options, common

if TYPE_CHECKING:
    from rlm.lock import Holder
    from rlm.records import SessionView, SnapshotSaved
    from rlm.settings import Config
    from rlm.snapshots import SnapshotInfo
    from rlm.state import State

DOCKER_S = 3.0
"""How long Docker may take to answer before it counts as one that does not."""
BUFFERS = "buffers"
"""Listed with the variables; a cell cannot have one of this name."""


@click.command(
    name="status",
    short_help="What is loaded, kept and spent.",
    epilog="\b\nExamples:\n  rlm status\n  rlm status --config\n  rlm status --json | jq .spend.cost_usd",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common(config_help="Each setting and its source; FILE in place of ./config.json.")
def command(options: Options, *, as_json: bool) -> None:
    """What is loaded, kept and spent in this folder. Quick: needs neither a key nor Docker."""
    from rlm.state import State

    console = options.console()
    config = options.load_config(console)
    exists = options.state_dir.exists()
    state = State.open(options.state_dir, create=False, ask=options.confirm) if exists else None
    found = gather(state, config)
    if options.show_config:
        from rlm.config import describe

        rows = describe(config)
        found = {"settings": {key: {"value": value, "source": source} for key, value, source in rows}}
    if as_json:
        console.answer([json.dumps(found, ensure_ascii=False, default=str).encode() + b"\n"])
        return
    shown = _setting_lines(found["settings"]) if options.show_config else lines(found)
    console.answer([f"{line}\n".encode() for line in shown])


def gather(state: "State | None", config: "Config", *, inside: bool = False) -> dict[str, Any]:
    """Everything that `status` tells, JSON-ready. `inside`: asked by the command that holds the lock."""
    from rlm.records import SessionView
    from rlm.spend import beside_caps

    view = state.view() if state else SessionView()
    holder = state.holder() if state and not inside else None
    newest = next(iter(state.snapshots(view)), None) if state else None
    generation = newest.header.generation if newest else 0
    saved = next((row for row in reversed(view.snapshots) if row.generation == generation), None)
    rows = [dataclasses.asdict(variable) for variable in saved.variables] if saved else []
    return {
        "state_dir": str(state.path) if state else None,
        "documents": _documents(view, state),
        "texts": _texts(state),
        "sub_calls": _sub_calls(state),
        "variables": [row for row in rows if row["name"] != BUFFERS],
        "buffers": next((_items(row["size"]) for row in rows if row["name"] == BUFFERS), 0),
        "not_saved": [{"name": name, "reason": reason} for name, reason in saved.skipped] if saved else [],
        "snapshot": _snapshot(newest, saved, state) if newest and saved and state else None,
        "snapshots_lost": sum(row.generation > generation for row in view.snapshots),
        "session": {
            "id": view.session or None,
            "created": view.created or None,
            "turns": len(view.turns),
            "unfinished": view.interrupted.question if view.interrupted else None,
            "caps": {
                name: {"spent": spent, "cap": cap} for name, spent, cap in beside_caps(config.limits, view)
            },
        },
        "spend": {**dataclasses.asdict(view.usage), "max_cost_usd": config.limits.max_cost_usd},
        "container": _container(holder, state, inside=inside),
        "held_by": str(holder) if holder else None,
        "models": {"root": config.root.model, "sub": config.sub.model},
    }


def _documents(view: "SessionView", state: "State | None") -> list[dict[str, Any]]:
    from rlm.documents import Document, changes
    from rlm.text_cache import FileIdentity, lines_known

    documents = [Document.from_json(row) for row in view.documents]
    identities = [FileIdentity(d.device, d.inode, d.size_bytes, d.mtime_ns) for d in documents]
    lines = lines_known(state.path / "texts", identities) if state else {}
    return [
        {
            "name": document.name,
            "path": str(document.path),
            "source": document.source or None,
            "size_bytes": document.size_bytes,
            "kind": document.kind,
            "encoding": document.encoding or None,
            "lines": lines.get(identity),
            "tokens": document.tokens,
            "active": view.active == document.name or (view.active or "").startswith(f"{document.name}/"),
            "state": changes(document),
        }
        for document, identity in zip(documents, identities, strict=True)
    ]


def _texts(state: "State | None") -> dict[str, int]:
    """What the cache of texts that were made of documents holds."""
    from rlm.text_cache import usage

    count, size_bytes = usage(state.path / "texts") if state else (0, 0)
    return {"files": count, "size_bytes": size_bytes}


def _sub_calls(state: "State | None") -> dict[str, Any]:
    """What the cache of sub-calls holds and saved."""
    from rlm.call_cache import CacheUsage, cache_usage

    return dataclasses.asdict(cache_usage(state.cache_path) if state else CacheUsage())


def _snapshot(newest: "SnapshotInfo", saved: "SnapshotSaved", state: "State") -> dict[str, Any]:
    """The newest snapshot that is there to restore. `age_s` is None where its time is not on record."""
    created = saved.created or newest.header.created
    try:
        age_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    except (TypeError, ValueError):
        age_s = None
    return {
        "generation": saved.generation,
        "turn": saved.turn,
        "created": created,
        "age_s": age_s,
        "size_bytes": saved.size_bytes,
        "image": newest.header.image,
        "on_disk": dataclasses.asdict(state.snapshot_sizes()),
    }


def _container(holder: "Holder | None", state: "State | None", *, inside: bool) -> dict[str, Any]:
    """The container lives as long as the command that holds the lock, so Docker is asked only then.

    `running` is None, with the `problem`, when Docker does not tell.
    """
    if state is None or not (holder or inside):
        return {"running": False}
    answers: list[dict[str, Any]] = []
    labels = [f"rlm.state={state.path}", f"rlm.pid={holder.pid if holder else os.getpid()}"]
    # A thread that nobody waits for: an engine that hangs must not hold up what the disk tells.
    asking = threading.Thread(target=lambda: answers.append(_ask_docker(labels)), daemon=True)
    asking.start()
    asking.join(DOCKER_S)
    return answers[0] if answers else {"running": None, "problem": "Docker does not react."}


def _ask_docker(labels: list[str]) -> dict[str, Any]:
    from rlm.box.engine_api import LABEL, Engine
    from rlm.errors import SandboxError

    try:
        engine = Engine()
        found = engine.containers([f"{LABEL}=container", *labels])
        alive = next((row for row in found if row["State"] in ("running", "paused")), None)
        if alive is None:
            return {"running": False}
        identity = alive["Id"]
        limit = engine.inspect(identity)["HostConfig"]["Memory"]
        used = engine.memory_used_bytes(identity)
        engine.close()
    except SandboxError as error:
        return {"running": None, "problem": error.what}
    except OSError:  # what the engine's client raises when the connection goes, or the container
        return {"running": None, "problem": "Docker went away while it was asked."}
    return {
        "running": True,
        "state": alive["State"],
        "id": identity[:12],
        "image": alive["Image"],
        "memory_used_bytes": used,
        "memory_limit_bytes": limit,
    }


def _items(size: str) -> int:
    """The number in `1,200 items`."""
    digits = size.partition(" ")[0].replace(",", "")
    return int(digits) if digits.isdecimal() else 0


def lines(found: dict[str, Any]) -> Iterator[str]:
    from rlm.events import Usage
    from rlm.formats import FORMATS
    from rlm.ui.numbers import duration, money, plural, size, usage_text

    if not found["state_dir"]:
        yield "nothing here yet. Begin with:  rlm init FILE"
        return
    for number, document in enumerate(found["documents"]):
        label = "documents" if number == 0 else ""
        mark = "* " if document["active"] else "  "
        facts = [size(document["size_bytes"])]
        facts += [FORMATS[document["kind"]].label] if document["kind"] != "text" else []
        count = document["lines"]
        facts += [f"{count:,} line{'' if count == 1 else 's'}"] if count is not None else []
        facts += [f"{document['state']} since it was loaded"] if document["state"] != "unchanged" else []
        yield f"{label:<10} {mark}{document['name']}  {' · '.join(facts)}"
    if not found["documents"]:
        yield "documents  none. Load some:  rlm init FILE"
    if texts := found["texts"]["files"]:
        made = f"of {plural(texts, 'file')}, {size(found['texts']['size_bytes'])}"
        yield f"texts      made {made}"
    calls = found["sub_calls"]
    if asked := calls["hits"] + calls["sent"]:
        rate = f"{calls['hits']:,} of {asked:,} answered from the cache ({calls['hits'] / asked:.0%})"
        saved = f", {money(calls['saved_usd'])} saved" if calls["saved_usd"] else ""
        yield f"sub-calls  {rate}{saved}; {size(calls['size_bytes'])} kept"
    variables = found["variables"]
    names = ", ".join(f"{row['type']} {row['name']} ({row['size']})" for row in variables[:12])
    more = f", … {len(variables) - 12} more" if len(variables) > 12 else ""
    yield f"variables  {names + more if variables else 'none'}"
    if found["buffers"]:
        yield f"buffers    {found['buffers']:,}"
    for row in found["not_saved"]:
        yield f"           not saved: {row['name']} ({row['reason']})"
    saved = found["snapshot"]
    if saved:
        age = f", {duration(saved['age_s'])} old" if saved["age_s"] is not None else ""
        disk = saved["on_disk"]
        kept = f"{disk['snapshots']} kept, {size(disk['snapshots_bytes'] + disk['blobs_bytes'])}"
        yield f"snapshot   of turn {saved['turn']}{age}, {size(saved['size_bytes'])}; {kept} on the disk"
    else:
        yield "snapshot   none"
    if found["snapshots_lost"]:
        yield f"           {plural(found['snapshots_lost'], 'later one')} cannot be used: damaged, or removed"
    container = found["container"]
    if container["running"]:
        used, limit = container["memory_used_bytes"], container["memory_limit_bytes"]
        memory = f"{size(used)} of {size(limit)}" if used is not None else f"limit {size(limit)}"
        yield f"container  {container['state']}, {memory}, {container['image']}, no network"
    elif container["running"] is None:
        yield f"container  not known: {container['problem']}"
    else:
        yield "container  not running (it starts with chat and run)"
    if found["held_by"]:
        yield f"held by    {found['held_by']}"
    session = found["session"]
    since = f", since {session['created'][:16].replace('T', ' ')} UTC" if session["created"] else ""
    yield f"session    {session['id'] or 'none'}, {plural(session['turns'], 'turn')}{since}"
    if session["unfinished"]:
        yield f"           the last turn was not finished: {session['unfinished'][:200]}"
    spend = dict(found["spend"])
    cap = spend.pop("max_cost_usd")
    yield f"spend      {usage_text(Usage(**spend))}; up to {money(cap)} a question"
    if caps := session["caps"]:
        yield f"           of this session: {' · '.join(_cap_texts(caps, estimated=spend['estimated']))}"
    yield f"models     {found['models']['root']}, sub {found['models']['sub']}"


def _cap_texts(caps: dict[str, dict[str, Any]], *, estimated: bool) -> Iterator[str]:
    """`$0.09 of $5.00`, for each cap of the session that is set."""
    from rlm.ui.numbers import count, duration, money

    about = "~" if estimated else ""
    texts: dict[str, Callable[[Any, Any], str]] = {
        "session_cost_usd": lambda spent, cap: f"{about}{money(spent)} of {money(cap)}",
        "session_tokens": lambda spent, cap: f"{about}{count(spent)} of {count(cap)} tokens",
        "session_sub_calls": lambda spent, cap: f"{spent:,} of {cap:,} sub-calls",
        "session_timeout_s": lambda spent, cap: f"{duration(spent)} of {duration(cap)}",
    }
    for name, row in caps.items():
        yield texts[name](row["spent"], row["cap"])


def _setting_lines(settings: dict[str, Any]) -> Iterator[str]:
    width = max(map(len, settings))
    for key, row in settings.items():
        yield f"{key:<{width}}  {row['value']}  ({row['source']})"
