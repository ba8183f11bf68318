"""`rlm init`: look at files and register them. No Docker, no key, no model."""

from pathlib import Path

import click

from rlm.cli.options import Options, common
from rlm.errors import DocumentError


@click.command(
    name="init",
    short_help="Register files.",
    epilog='\b\nExamples:\n  rlm init meetings.txt\n  rlm init src/ "logs/**/*.log"',
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--name", metavar="N", help="What the document is called (for one file).")
@click.option("--replace", is_flag=True, help="Forget the documents that were registered before.")
@common()
def command(options: Options, files: tuple[str, ...], *, name: str | None, replace: bool) -> None:
    """Register files, folders or patterns as documents; the next chat or run starts with them.

    Prints size, encoding, an estimate in tokens and a preview. Works with no key and with Docker down.
    """
    from rlm.cli.show import document_lines
    from rlm.register import register
    from rlm.ui.numbers import plural

    console = options.console()
    existed = options.state_dir.exists()
    try:
        with options.state(command="init") as state:
            added, documents, skipped = register(state, files, cwd=Path.cwd(), replace=replace, name=name)
    except DocumentError:
        if not existed:
            state.reset()  # nothing was registered, so nothing is left behind
        raise
    if options.quiet:
        return
    for line in document_lines(added, most=20):
        console.line(line)
    if skipped:
        console.note(f"left out: {plural(len(skipped), 'entry').replace('entrys', 'entries')}")
        for path, reason in skipped if options.verbose else skipped[:5]:
            console.line(f"  {path}: {reason}", style="dim")
        if len(skipped) > 5 and not options.verbose:
            console.line(f"  … and {len(skipped) - 5:,} more (-v shows all)", style="dim")
    total = plural(len(documents), "document")
    console.line(f'{total} ready. Next:  rlm chat   or   rlm run "…"', style="dim")
