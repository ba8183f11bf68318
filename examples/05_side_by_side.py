"""Ask the same question of several files at once, each in a session of its own, with a budget for all.

What one question may cost is its share of the budget; one that needs more gives the best answer it has.
"""

import asyncio
from pathlib import Path

from rlm import Answer, AsyncRLM, RlmError

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "architecture.md", DOCS / "configuration.md", DOCS / "protocol.md"]
BUDGET_USD = 0.60
AT_ONCE = 2
"""Each session has a container, with up to 2 GiB of memory unless `memory` says less."""


async def ask(page: Path, places: asyncio.Semaphore) -> Answer | RlmError:
    async with (
        places,
        AsyncRLM(model="gpt-5", sub_model="gpt-5-mini", max_cost=BUDGET_USD / len(PAGES)) as rlm,
    ):
        try:
            return await rlm.run("What is this page for? One sentence.", files=[page])
        except RlmError as error:  # there is no answer at all
            return error


async def main() -> None:
    places = asyncio.Semaphore(AT_ONCE)
    results = await asyncio.gather(*(ask(page, places) for page in PAGES))
    for page, result in zip(PAGES, results, strict=True):
        if isinstance(result, RlmError):
            print(f"{page.name}: failed: {result}")
        else:
            print(f"{page.name} ({result.status}): {result.text}")
    answers = [result for result in results if isinstance(result, Answer)]
    print(f"all together: ${sum(answer.usage.cost_usd or 0.0 for answer in answers):.4f}")


asyncio.run(main())
