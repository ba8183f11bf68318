"""Watch a question while it is answered: each step, the sub-calls, and what it has cost so far.

At the end the whole story is written to a page for the browser.
"""

from pathlib import Path

from rlm import RLM
from rlm.events import CellFinished, ReplyFinished, SubCallFinished, Usage

DOCS = Path(__file__).parent.parent / "docs"


def dollars(usage: Usage) -> str:
    return "$?" if usage.cost_usd is None else f"${usage.cost_usd:.4f}"


with RLM(model="gpt-5", sub_model="gpt-5-mini", max_cost=0.50) as rlm:
    spent = Usage()
    for event in rlm.events("Summarise each of these pages in one sentence.", files=[DOCS]):
        match event:
            case ReplyFinished():
                spent += event.usage
                print(f"step {event.step} ({dollars(spent)}): {event.prose}")
            case SubCallFinished():
                spent += event.usage
                print(f"  sub-call {event.done} of {event.total} ({dollars(spent)})")
            case CellFinished():
                print(f"  cell {event.cell}: {event.status}, {event.duration_s:.1f} s")

if answer := rlm.last:
    print(answer.text)
    answer.trace.write_html("trace.html")
