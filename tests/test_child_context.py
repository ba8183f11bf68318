"""What a child RLM is told of its context, what is refused, and how children share the container."""

import json
from dataclasses import replace

import pytest

from rlm import child_context
from rlm.children import LEAST_BYTES, share_of
from rlm.errors import DocumentError
from rlm.settings import Config, Limits, ModelConfig, SandboxConfig

MiB = 1024 * 1024
DOCUMENT = {"name": "a b.txt", "path": "/data/1", "size_bytes": 5_000, "kind": "text", "encoding": "utf-8"}
PIECE = {"document": DOCUMENT, "start": 1_000, "end": 3_000, "total": 4_900, "mark": ""}
CONFIG = Config(root=ModelConfig(model="root"), sub=ModelConfig(model="sub"))


@pytest.mark.parametrize(
    ("changes", "chars", "said"),
    [
        ({}, 2_000, "its characters 1,000 to 3,000 of 4,900. It holds 2,000 characters"),
        ({"total": -1}, 2_000, "its characters 1,000 to 3,000. It holds"),
        ({"mark": "page 3 of 12"}, 2_000, "1,000 to 3,000 of 4,900, in [page 3 of 12]. It holds"),
        (
            {"start": 0, "end": 4_900},
            4_900,
            "is the document 'a b.txt' (text, 5,000 bytes, 4,900 characters).",
        ),
        ({"start": 0, "end": -1, "total": -1}, 5_000, "is the document 'a b.txt' (text, 5,000 bytes)."),
        ({"document": DOCUMENT | {"kind": "csv"}}, 2_000, "sql() can ask the document, as doc."),
        ({"document": DOCUMENT | {"name": "n" * 10_000}}, 2_000, f"{'n' * 300!r}"),
    ],
)
def test_child_is_told_what_its_piece_is(changes: dict[str, object], chars: int, said: str) -> None:
    context = child_context.of_piece(json.dumps(PIECE | changes))
    assert context.chars == chars
    assert said in context.sentence


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "[]",
        "{}",
        json.dumps(PIECE | {"start": "0"}),
        json.dumps(PIECE | {"end": True}),
        json.dumps(PIECE | {"document": None}),
        json.dumps(PIECE | {"document": DOCUMENT | {"kind": "none"}}),
        json.dumps(PIECE | {"mark": "m" * 70_000}),
    ],
)
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(DocumentError, match="is no piece of a document"):
        child_context.of_piece(reference)


@pytest.mark.parametrize(
    ("memory_bytes", "pids", "max_depth", "max_children", "at_once"),
    [
        (2048 * MiB, 128, 2, 4, 4),
        (2048 * MiB, 128, 3, 4, 3),
        (2048 * MiB, 128, 8, 4, 1),
        (256 * MiB, 128, 2, 4, 1),
        (65536 * MiB, 128, 2, 64, 10),
        (65536 * MiB, 4096, 2, 64, 64),
        (2048 * MiB, 32, 2, 4, 1),
    ],
)
def test_as_many_children_at_once_as_have_room(
    memory_bytes: int, pids: int, max_depth: int, max_children: int, at_once: int
) -> None:
    config = replace(
        CONFIG,
        limits=Limits(max_depth=max_depth, max_children=max_children),
        sandbox=SandboxConfig(memory_bytes=memory_bytes, pids=pids),
    )
    share = share_of(config)
    assert share.at_once == at_once
    together = share.memory_bytes * at_once * (max_depth - 1)
    assert share.memory_bytes == LEAST_BYTES or together <= memory_bytes // 3
