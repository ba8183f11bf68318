"""Get the answer as data: it fits a JSON Schema, or the model is told why it does not and tries again.

The documents are texts of this program; they need not be files.
"""

from rlm import RLM

TICKETS = {
    "ticket-17": "The app closes when I open a second window. Since version 4.2, on Linux.",
    "ticket-18": "Could you add a dark theme? My eyes would thank you.",
    "ticket-19": "Export to CSV has the columns in another order every time.",
}
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "ticket": {"type": "string"},
            "kind": {"enum": ["bug", "wish"]},
            "summary": {"type": "string"},
        },
        "required": ["ticket", "kind", "summary"],
    },
}

with RLM(model="gpt-5", sub_model="gpt-5-mini") as rlm:
    answer = rlm.run("Sort the tickets into bugs and wishes.", files=TICKETS, schema=SCHEMA)

for row in answer.raise_for_status().value:
    print(f"{row['ticket']}: {row['kind']}: {row['summary']}")
