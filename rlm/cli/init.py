"""`rlm init`: look at files and register them. No key, no model; Docker only to make text of what is none."""

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlm.cli.options import FILES, Options, common
from rlm.errors import DocumentError, SandboxError, UsageError

if TYPE_CHECKING:
    from rlm.documents import Document
    from rlm.register import Registered
    from rlm.sandbox import Sandbox
    from rlm.settings import Config
    from rlm.state import State
    from rlm.text_cache import TextCache
    from rlm.texts import Text
    from rlm.ui.console import Console

SHOWN = 20
"""So many documents are shown one by one, and have their lines counted for it."""


@click.command(
    name="init",
    short_help="Register files.",
    epilog="\b\nExamples:\n"
    '  rlm init meetings.txt\n  rlm init src/ "logs/**/*.log" report.pdf archive.zip\n'
    "  rlm init https://example.org/data.csv.gz\n"
    '  rlm init "hf://datasets/Ahren09/QMSum?split=train"',
)
@click.argument("files", type=FILES, nargs=-1, metavar="[FILE]...")
@click.option("--name", metavar="N", help="What the document is called, if FILE is one.")
@click.option("--encoding", metavar="E", default="", help="Its text encoding, if it is not found out.")
@click.option("--replace", is_flag=True, help="Forget the documents of before.")
@common()
def command(
    options: Options, files: tuple[str, ...], *, name: str | None, encoding: str, replace: bool
) -> None:
    """Register files, folders, patterns or addresses as documents; the next chat or run starts with them.

    Prints size, kind, encoding, an estimate in tokens and a preview. Without FILE it takes the data_source of
    config.json. Works with no key and with Docker down; text of a PDF, an archive and the like is made in the
    sandbox, now if it is there, else when it first starts.
    """
    from rlm.cli.load import download_progress
    from rlm.register import register

    console = options.console()
    config = options.load_config(console)
    paths = files or config.data_source
    if not paths:
        raise UsageError(
            "There is nothing to register.",
            "No FILE was given, and config.json names no data_source.",
            hint="rlm init FILE…",
        )
    existed = options.state_dir.exists()
    downloads = options.state_dir / "downloads"
    try:
        with options.state(command="init") as state:
            registered = register(
                state,
                paths,
                cwd=Path.cwd(),
                environ=config.environ,
                replace=replace,
                name=name,
                encoding=encoding,
                progress=download_progress(console),
            )
            for note in registered.notes:
                console.note(note)
            registered, made = _make_texts(console, config, state, registered)
            if not options.quiet:
                cache = state.texts(limit_bytes=config.sandbox.cache_bytes)
                texts = _texts_shown(registered.added[:SHOWN], made, cache)
                _show(console, registered, texts, verbose=options.verbose)
                if options.interactive:
                    _count_large(console, texts, cache)
    except DocumentError:
        if not existed and not any(downloads.glob("*")):
            state.reset()  # nothing was registered, so nothing is left behind
        raise
    except KeyboardInterrupt:
        if any(downloads.glob("*.part.json")):
            console.note("what was fetched so far is kept: the same command goes on from there")
        raise
    finally:
        console.status("")


def _make_texts(
    console: "Console", config: "Config", state: "State", registered: "Registered"
) -> "tuple[Registered, Sequence[Text]]":
    """Make texts of what was added, if the sandbox is there; returns what is left, and these texts.

    What cannot be read is not a document any more. Raises `DocumentError` when that is all of it.
    """
    from rlm.box.namespace import serve_nobody
    from rlm.events import Event, Notice, Progress
    from rlm.register import take_back
    from rlm.sandbox import Sandbox

    files = [document for document in registered.added if not document.is_text]
    if not files:
        return registered, ()

    def emit(event: Event) -> None:
        if isinstance(event, Progress):
            console.status(event.text)
        elif isinstance(event, Notice):
            console.note(event.text, level=event.level)

    def put_off(why: str) -> None:
        console.status("")
        console.note(f"text of {_named(files)} is made when the sandbox first starts ({why})")

    sandbox = Sandbox(config=config, state=state, emit=emit, serve=serve_nobody, documents=files)
    try:
        asyncio.run(_prepare(sandbox))
    except DocumentError:
        state.append(registered.before)
        raise
    except SandboxError as error:
        put_off(error.what.rstrip("."))
    except KeyboardInterrupt:
        put_off("interrupted")
        raise
    if problems := sandbox.prepared.problems:
        registered = take_back(state, registered, problems)
    return registered, sandbox.prepared.texts


async def _prepare(sandbox: "Sandbox") -> None:
    try:
        await sandbox.prepare(build=False)
    finally:
        await sandbox.close()


def _named(documents: "Sequence[Document]") -> str:
    from rlm.ui.numbers import plural

    if len(documents) <= 3:
        return ", ".join(document.name for document in documents)
    return plural(len(documents), "document")


def _texts_shown(documents: "Sequence[Document]", made: "Sequence[Text]", cache: "TextCache") -> "list[Text]":
    """What is known of the texts of `documents`; lines are counted, but for those of large ones.

    The cache alone does not tell: it does not trust the times of a file that was written a moment ago.
    """
    from rlm.texts import known_texts

    names = {document.name for document in documents}
    texts = [text for text in made if text.document.name in names]
    names -= {text.document.name for text in texts}
    texts += known_texts([document for document in documents if document.name in names], cache=cache)
    return asyncio.run(_counted(texts, cache))


async def _counted(texts: "Sequence[Text]", cache: "TextCache") -> "list[Text]":
    from rlm.line_counts import LineCounts

    counts = LineCounts(cache)
    try:
        lines = await counts.count_small(texts)
    finally:
        counts.stop()
    return [dataclasses.replace(text, lines=lines.get(text.name, -1)) for text in texts]


def _show(console: "Console", registered: "Registered", texts: "Sequence[Text]", *, verbose: bool) -> None:
    from rlm.cli.show import document_lines
    from rlm.ui.numbers import plural

    for line in document_lines(registered.added, texts, most=SHOWN):
        console.line(line)
    if skipped := registered.skipped:
        console.note(f"left out: {len(skipped):,} {'entry' if len(skipped) == 1 else 'entries'}")
        for path, reason in skipped if verbose else skipped[:5]:
            console.line(f"  {path}: {reason.rstrip('.')}", style="dim")
        if len(skipped) > 5 and not verbose:
            console.line(f"  … and {len(skipped) - 5:,} more (-v shows all)", style="dim")
    total = plural(len(registered.documents), "document")
    console.line(f'{total} ready. Next:  rlm chat   or   rlm run "…"', style="dim")


def _count_large(console: "Console", texts: "Sequence[Text]", cache: "TextCache") -> None:
    """Count the lines of large documents; Ctrl-C leaves it for later."""
    from rlm.line_counts import count_lines
    from rlm.texts import identity_of
    from rlm.ui.numbers import size

    for text in texts:
        if text.lines >= 0:
            continue

        def progress(done: int, text: "Text" = text) -> None:
            console.status(
                f"counting lines of {text.name}: {size(done)} of {size(text.size_bytes)} (Ctrl-C: later)"
            )

        try:
            lines = count_lines(text.document.path, text.encoding, progress=progress)
        except KeyboardInterrupt:
            return
        finally:
            console.status("")
        if lines is not None:
            cache.remember_lines({identity_of(text.document): lines})
            console.line(f"{text.name}  {lines:,} lines")
