"""The generated blocks of README.md and docs/cli.md: help texts, and what scripted runs show.

    <!-- generated: help run -->
    ```
    …
    ```

`scripts/docs` writes them anew, `tests/test_docs.py` compares. Of a transcript only times may differ.
"""

import os
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import ioctl
from functools import cache
from pathlib import Path
from pty import openpty
from termios import TIOCSWINSZ

from tests.e2e import Project, cell, wait
from tests.model_server import ModelServer, Reply, Tokens

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/cli.md")

_BLOCK = re.compile(r"(<!-- generated: (?P<name>.+?) -->\n+```\w*\n)(?P<text>.*?)(\n```)", re.DOTALL)
_TIME = re.compile(r"\b\d+(\.\d+)? ?m?s\b")

OWN_MODELS = {"RLM_MODEL": None, "RLM_SUB_MODEL": None}
"""Left to the configuration, which has prices."""
QUESTION = "Which endpoints fail most, and why?"
PRICES = {"input_per_mtok": 1.25, "output_per_mtok": 10.0}
SUB_PRICES = {"input_per_mtok": 0.25, "output_per_mtok": 2.0}

STEPS = (
    (
        "First I look at what the lines are.",
        "print(f'{len(context.splitlines()):,} lines')\nprint(lines(1, 3).strip())",
    ),
    (
        "Counting is for code. Failures are those with a status of 500 and above.",
        "import re\nfrom collections import Counter\n"
        "failed = Counter(re.findall(r'\"[A-Z]+ (\\S+)\" 5\\d\\d', context))\n"
        "failed.most_common(3)",
    ),
    (
        "Why they fail is a matter of meaning: one prompt for each of the three, with its lines.",
        "worst = failed.most_common(3)\n"
        "prompts = [\n"
        "    f'Why does {path} fail? One sentence.\\n\\n' + str(grep(f'{path}\" 5', max_matches=20))\n"
        "    for path, _ in worst\n"
        "]\n"
        "reasons = llm_query_batched(prompts)\n"
        "FINAL('\\n'.join(f'- {path}: {n} failures. {why}' for (path, n), why in zip(worst, reasons)))",
    ),
)
REASONS = {
    "/api/export": "The export runs into the time limit of 30 s.",
    "/api/search": "The index is not reachable during its nightly rebuild.",
    "/login": "The session store refuses connections.",
}


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Name and text of each generated block of a page."""
    for match in _BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        yield match["name"], match["text"]


def generated(name: str) -> str:
    """What belongs into the block `name`: `start`, `help`, `help COMMAND`, or a transcript."""
    kind, _, command = name.partition(" ")
    if kind == "start":
        return help_text()
    if kind == "help":
        return help_text(*command.split(), "--help")
    return TRANSCRIPTS[name]()


def same(one: str, other: str) -> bool:
    """Whether two texts are the same, apart from times."""
    return _TIME.sub("0s", one) == _TIME.sub("0s", other)


def help_text(*arguments: str) -> str:
    """What `rlm` shows in 80 columns."""
    with ModelServer() as server, tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), home=Path(folder), server=server)
        ended = project.run(*arguments, env={"COLUMNS": "80"})
    return (ended.out.decode() + ended.err).strip("\n")


def log() -> str:
    """An access log of 12,000 lines, the same each time."""
    paths = ["/", "/login", "/api/search", "/api/export", "/api/items", "/health"]
    reasons = {
        "/api/export": "timeout after 30 s",
        "/api/search": "index locked",
        "/login": "ECONNREFUSED redis",
    }
    every = {"/api/export": 5, "/api/search": 17, "/login": 71}
    rows = []
    for number in range(12_000):
        path = paths[number * 7 % len(paths)]
        bad = path in every and number // len(paths) % every[path] == 0
        status, text = ("503", reasons[path]) if bad else ("200", "ok")
        rows.append(f'10.0.{number % 200}.{number % 250} "GET {path}" {status} {text}')
    return "\n".join(rows) + "\n"


@cache
def scripted_run() -> tuple[str, str]:
    """stdout and stderr of a question about the log, with scripted replies and prices."""
    with ModelServer() as server, tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), home=Path(folder), server=server)
        project.write("access.log", log())
        project.configure(
            root_llm={"model": "openai/root", "price": PRICES},
            sub_llm={"model": "openai/sub", "price": SUB_PRICES},
        )
        for number, (plan, code) in enumerate(STEPS):
            tokens = Tokens(input=2900 + 420 * number, output=90)
            server.reply("root", Reply(cell(code, plan=plan), usage=tokens))

        def reason(request: dict[str, object]) -> Reply:
            found = next(why for path, why in REASONS.items() if f"Why does {path} fail?" in str(request))
            return Reply(found, usage=Tokens(input=810, output=14))

        server.default("sub", reason)
        return on_a_plain_terminal(project, "run", QUESTION, "-f", "access.log")


def on_a_plain_terminal(project: Project, *arguments: str) -> tuple[str, str]:
    """stdout, and what a terminal without colours, of 100 columns, shows of stderr."""
    master, slave = openpty()
    ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", 60, 100, 0, 0))
    with project.popen(*arguments, env={"TERM": "dumb", **OWN_MODELS}, stderr=slave) as process:
        os.close(slave)
        shown = bytearray()
        with suppress(OSError):  # EIO: the command has ended
            while data := os.read(master, 65536):
                shown += data
        os.close(master)
        ended = wait(process)
    text = shown.decode().replace("\r\n", "\n").strip("\n")
    assert ended.code == 0, text
    return ended.out.decode().strip("\n"), text


def run_transcript() -> str:
    answer, shown = scripted_run()
    shown = shown[shown.index("step 1/") :]  # before that the image may be built, or not
    return f'$ rlm run "{QUESTION}" -f access.log\n{shown}\n{answer}'


TRANSCRIPTS: dict[str, Callable[[], str]] = {"run": run_transcript}


def rewritten(page: str, *, names: Callable[[str], str] = generated) -> str:
    """The page with its blocks as they should be; one that differs only in times stays."""

    def fill(match: re.Match[str]) -> str:
        text = names(match["name"])
        return match[0] if same(text, match["text"]) else f"{match[1]}{text}{match[4]}"

    return _BLOCK.sub(fill, (ROOT / page).read_text(encoding="utf-8"))


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or with `--check` tell which would change. Returns the exit code."""
    stale = []
    for page in PAGES:
        text = rewritten(page)
        if text != (ROOT / page).read_text(encoding="utf-8"):
            stale.append(page)
            if "--check" not in arguments:
                (ROOT / page).write_text(text, encoding="utf-8")
    for page in stale:
        sys.stderr.write(f"{page} {'is not up to date' if '--check' in arguments else 'was changed'}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
