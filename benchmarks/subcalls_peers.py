"""The same batch of calls without this program: by plain litellm, and by the reference library's own batch.

`benchmarks.subcalls` runs it, each time in a fresh process. It imports nothing of this repository, since the
reference library has an environment of its own, in which `rlm` is another package. It prints one JSON object.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

FILLER = "The meeting went on to the next point of the agenda. "


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a batch took. CPU and memory (beyond what was held before) are those of the host's process."""

    wall_s: float
    cpu_s: float
    peak_growth_bytes: int
    guest_cpu_s: float = 0.0


class Meter:
    """Measures this process from its making on. Needs Linux, whose peak of memory can be set back."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._held = _memory("VmRSS")
        self._cpu = time.process_time()
        self._began = time.perf_counter()

    def read(self) -> Taken:
        return Taken(
            wall_s=time.perf_counter() - self._began,
            cpu_s=time.process_time() - self._cpu,
            peak_growth_bytes=_memory("VmHWM") - self._held,
        )


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def prompts(calls: int, chars: int) -> list[str]:
    """Each begins with its number, which is what the model will say."""
    filler = FILLER * (chars // len(FILLER) + 1)
    return [f"{number}\n{filler}"[:chars] for number in range(calls)]


def check(replies: Sequence[object]) -> None:
    """Raises `SystemExit` unless each prompt has its reply, in order."""
    wrong = [(at, reply) for at, reply in enumerate(replies) if reply != str(at)]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(replies)} replies are wrong, the first: {wrong[0]}")


async def plain_litellm(url: str, asked: Sequence[str], parallel: int) -> Taken:
    """`acompletion` for each prompt, at most so many at once."""
    os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MODE="PRODUCTION", LITELLM_LOG="CRITICAL")
    import litellm

    litellm.suppress_debug_info = True
    gate = asyncio.Semaphore(parallel)

    async def ask(prompt: str) -> Any:
        async with gate:
            response = await litellm.acompletion(
                model="openai/sub",
                messages=[{"role": "user", "content": prompt}],
                api_base=url,
                api_key="none",
                max_retries=0,
                timeout=600,
            )
            return response.choices[0].message.content

    await ask("warm")
    meter = Meter()
    replies = await asyncio.gather(*map(ask, asked))
    taken = meter.read()
    check(replies)
    return taken


def reference(url: str, asked: Sequence[str], parallel: int) -> Taken:
    """`llm_query_batched` in its local REPL, through its handler's socket, with the client of openai."""
    openai = import_module("rlm.clients.openai")
    lm_handler = import_module("rlm.core.lm_handler")
    local_repl = import_module("rlm.environments.local_repl")
    client = openai.OpenAIClient(api_key="none", model_name="sub", base_url=url)
    with lm_handler.LMHandler(client, batch_max_concurrent=parallel) as handler:
        repl = local_repl.LocalREPL(lm_handler_address=handler.address)
        repl.locals["prompts"] = list(asked)
        # Not a batch: the connections of a first one are bound to its event loop, and fail in the next one.
        repl.execute_code("llm_query('warm')")
        meter = Meter()
        repl.execute_code("replies = llm_query_batched(prompts)")
        taken = meter.read()
        check(repl.locals["replies"])
        repl.cleanup()
    return taken


def main(peer: str, url: str, calls: str, parallel: str, chars: str) -> None:
    asked = prompts(int(calls), int(chars))
    if peer == "litellm":
        taken = asyncio.run(plain_litellm(url, asked, int(parallel)))
    else:
        taken = reference(url, asked, int(parallel))
    print(json.dumps(asdict(taken)))


if __name__ == "__main__":
    main(*sys.argv[1:])
