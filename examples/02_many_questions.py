"""Ask several questions in one session: what the model computes for one is there for the next.

With `state_dir` the session is kept on disk, and the next run of this script goes on with it.
"""

from pathlib import Path

from rlm import RLM

DOCS = Path(__file__).parent.parent / "docs"
QUESTIONS = [
    "Make a variable `sections`: a dict from each heading in these documents to the text below it.",
    "Which three of the sections are longest?",
    "Of these three, which one would a newcomer need first, and why?",
]

with RLM(model="gpt-5", sub_model="gpt-5-mini", state_dir="questions.rlm", session_cost=2.00) as rlm:
    for number, question in enumerate(QUESTIONS):
        answer = rlm.run(question, files=[DOCS] if number == 0 else None)
        print(f"> {question}\n{answer.text}\n")
