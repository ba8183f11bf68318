"""Ask a question about a file, and print the answer and what it cost.

Needs Docker, and a key in OPENAI_API_KEY; the models of other providers have other names and keys.
"""

from pathlib import Path

from rlm import RLM

README = Path(__file__).parent.parent / "README.md"

with RLM(model="gpt-5", sub_model="gpt-5-mini", max_cost=0.50) as rlm:
    answer = rlm.run("Which commands does this program have?", files=[README])

print(answer.text)
cost = "unknown" if answer.usage.cost_usd is None else f"${answer.usage.cost_usd:.4f}"
print(f"{answer.steps} steps, {answer.usage.calls} calls, cost: {cost}")
