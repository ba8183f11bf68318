"""`rlm demo`: a whole run on files of this machine, with scripted model replies."""

import asyncio
import dataclasses
import tempfile
from pathlib import Path

import click

from rlm import errors
from rlm.cli.options import Options, common
from rlm.errors import RlmError


@click.command(name="demo", short_help="A full run without a model.", epilog="\b\nExample:\n  rlm demo -v")
@common()
def command(options: Options) -> int:
    """Answer a question about Python's standard library in the real container, with scripted replies.

    No model is called, no key is needed, nothing leaves this machine, and nothing is kept.
    """
    from rlm import demo
    from rlm.cli.ask import Keyboard
    from rlm.cli.conduct import conduct
    from rlm.events import TurnFinished
    from rlm.register import add_documents, begin_session
    from rlm.session import Session
    from rlm.settings import ModelConfig
    from rlm.state import State
    from rlm.ui.numbers import count, size

    console = options.console()
    config = options.load_config(console)
    scripted = ModelConfig(model="script (no model)")
    config = dataclasses.replace(config, root=scripted, sub=scripted)
    documents = demo.documents()
    total = sum(document.size_bytes for document in documents)
    console.line(
        f"This is a demo: the replies of both models are scripted, no model is called. Everything else is "
        f"real: {len(documents):,} source files of this Python ({size(total)}), the container, the code that "
        "runs in it, the fan-out of sub-calls.",
        style="bold",
    )
    console.line(f"Question: {demo.QUESTION}\n")
    with tempfile.TemporaryDirectory(prefix="rlm-demo-") as folder:
        state = State.open(Path(folder) / "state", create=True, key_path=Path(folder) / "key")
        with state.lock(command="rlm demo"), asyncio.Runner() as runner:
            begin_session(state)
            add_documents(state, documents, [])

            async def ask() -> TurnFinished:
                session = Session(config=config, state=state, models=demo.models(), cwd=Path.cwd())
                try:
                    return await conduct(session, demo.QUESTION, console=console, asker=Keyboard(options))
                finally:
                    await session.close()

            finished = runner.run(ask())
            if finished.answer:
                console.answer(Path(finished.answer.path), prose=True)
    if finished.status != "ok":
        raise getattr(errors, finished.error, RlmError)(
            finished.message, hint=finished.hint or "rlm doctor checks what a run needs."
        )
    console.line(
        f"\nNo model was called: {count(finished.usage.calls)} replies came from a script, and cost nothing.",
        style="bold",
    )
    console.line(
        "With a key it is your question and your files:\n"
        "  cp .env.example .env        and fill in one line\n"
        "  rlm init FILE…              (from a checkout: uv run main.py, or .venv/bin/rlm)\n"
        "  rlm chat"
    )
    return 0
