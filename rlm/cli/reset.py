"""`rlm reset`: delete the state of this folder and any container that is left of it."""

import click

from rlm.cli.options import Options, common
from rlm.errors import SandboxError, UsageError


@click.command(
    name="reset", short_help="Delete the state.", epilog="\b\nExamples:\n  rlm reset\n  rlm reset --yes"
)
@common()
def command(options: Options) -> None:
    """Delete the state of this folder, and any container left of it. Your files stay as they are.

    It asks first; --yes agrees. Deleting the state folder by hand does the same.
    """
    from rlm.state import State

    console = options.console()
    if not options.state_dir.exists():
        console.note(f"there is no {options.state_dir}; nothing to delete")
        return
    state = State.open(options.state_dir, create=False, ask=options.confirm)
    view = state.view()
    question = f"Delete {state.path} ({len(view.turns)} turns, {len(view.documents)} documents registered)?"
    if not options.confirm(question):
        raise UsageError("Nothing was deleted.", "It was not agreed to.", hint="rlm reset --yes")
    left = state.reset()
    removed = 0
    try:
        from rlm.box.container import remove_of

        removed = remove_of(state.path)
    except SandboxError:
        console.note("Docker is not answering, so containers were not looked for")
    console.line(f"deleted {state.path}" + (f", and {removed} container(s)" if removed else ""))
    if left:
        console.note(f"left alone, because they are not this program's: {', '.join(left)}", level="warning")
