"""`rlm status`: what is loaded, kept and spent. Quick, needs neither the lock nor Docker nor litellm."""

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from rlm.cli.options import Options, common

if TYPE_CHECKING:
    from rlm.records import SessionView
    from rlm.settings import Config
    from rlm.state import State


@click.command(name="status", short_help="What is loaded, kept and spent.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common(config_help="Each setting and where it came from; FILE in place of ./config.json.")
def command(options: Options, *, as_json: bool) -> None:
    """What is loaded, kept and spent in this folder."""
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

    view = state.view() if state else SessionView()
    holder = state.holder() if state and not inside else None
    saved = view.snapshots[-1] if view.snapshots else None
    return {
        "state_dir": str(state.path) if state else None,
        "documents": _documents(view, state),
        "texts": _texts(state),
        "variables": [dataclasses.asdict(variable) for variable in saved.variables] if saved else [],
        "not_saved": [{"name": name, "reason": reason} for name, reason in saved.skipped] if saved else [],
        "snapshot": {"turn": saved.turn, "size_bytes": saved.size_bytes} if saved else None,
        "session": {
            "id": view.session or None,
            "created": view.created or None,
            "turns": len(view.turns),
            "unfinished": view.interrupted.question if view.interrupted else None,
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


def _container(holder: object, state: "State | None", *, inside: bool) -> dict[str, Any]:
    """The container lives as long as the command that holds the lock, so Docker is asked only then."""
    if state is None or not (holder or inside):
        return {"running": False}
    from rlm.box.engine_api import LABEL, Engine
    from rlm.errors import SandboxError

    try:
        engine = Engine()
        found = engine.containers([f"{LABEL}=container", f"rlm.state={state.path}"])
        if not found:
            return {"running": False}
        identity = found[0]["Id"]
        limit = engine.inspect(identity)["HostConfig"]["Memory"]
        used = engine.memory_used_bytes(identity)
        engine.close()
    except SandboxError as error:
        return {"running": False, "problem": error.what}
    return {
        "running": True,
        "id": identity[:12],
        "image": found[0]["Image"],
        "memory_used_bytes": used,
        "memory_limit_bytes": limit,
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    from rlm.events import Usage
    from rlm.formats import FORMATS
    from rlm.ui.numbers import money, plural, size, usage_text

    if not found["state_dir"]:
        yield "nothing here yet. Begin with:  rlm init FILE"
        return
    for number, document in enumerate(found["documents"]):
        label = "documents" if number == 0 else ""
        mark = "* " if document["active"] else "  "
        facts = [size(document["size_bytes"])]
        facts += [FORMATS[document["kind"]].label] if document["kind"] != "text" else []
        facts += [f"{document['lines']:,} lines"] if document["lines"] is not None else []
        facts += [f"{document['state']} since it was loaded"] if document["state"] != "unchanged" else []
        yield f"{label:<10} {mark}{document['name']}  {' · '.join(facts)}"
    if not found["documents"]:
        yield "documents  none. Load some:  rlm init FILE"
    if texts := found["texts"]["files"]:
        made = f"of {plural(texts, 'file')}, {size(found['texts']['size_bytes'])}"
        yield f"texts      made {made}"
    variables = found["variables"]
    names = ", ".join(f"{row['name']} ({row['size']})" for row in variables[:12])
    more = f", … {len(variables) - 12} more" if len(variables) > 12 else ""
    yield f"variables  {names + more if variables else 'none'}"
    for row in found["not_saved"]:
        yield f"           not saved: {row['name']} ({row['reason']})"
    saved = found["snapshot"]
    about = f"of turn {saved['turn']}, {size(saved['size_bytes'])}" if saved else "none"
    yield f"snapshot   {about}"
    container = found["container"]
    if container["running"]:
        used, limit = container["memory_used_bytes"], container["memory_limit_bytes"]
        memory = f"{size(used)} of {size(limit)}" if used is not None else f"limit {size(limit)}"
        yield f"container  running, {memory}, no network"
    else:
        yield "container  not running (it starts with chat and run)"
    if found["held_by"]:
        yield f"held by    {found['held_by']}"
    session = found["session"]
    yield f"session    {session['id'] or 'none'}, {plural(session['turns'], 'turn')}"
    if session["unfinished"]:
        yield f"           the last turn was not finished: {session['unfinished'][:200]}"
    spend = dict(found["spend"])
    cap = spend.pop("max_cost_usd")
    yield f"spend      {usage_text(Usage(**spend))}; up to {money(cap)} a question"
    yield f"models     {found['models']['root']}, sub {found['models']['sub']}"


def _setting_lines(settings: dict[str, Any]) -> Iterator[str]:
    width = max(map(len, settings))
    for key, row in settings.items():
        yield f"{key:<{width}}  {row['value']}  ({row['source']})"
