"""An answer is looked at before it counts, and leaves nothing behind when it does not."""

from pathlib import Path

import pytest

from rlm.accept import Acceptance
from rlm.answers import FailedSink, FileSink
from rlm.box.results import CellResult
from rlm.box.wire import BytesSink, Sink
from rlm.errors import StateError
from rlm.log import NewFile


def final(sink: Sink, data: str, *, form: str) -> CellResult:
    sink.write(data.encode())
    return CellResult(status="final", final=sink, final_format=form)


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize(
    ("data", "form", "seen"),
    [
        ('{"n": [1, "é"]}', "json", {"n": [1, "é"]}),
        ('{"n": 1}', "text", '{"n": 1}'),
        ("", "text", ""),
    ],
)
def test_data_is_seen_parsed_and_text_as_it_is(
    tmp_path: Path, data: str, form: str, seen: object, *, in_file: bool
) -> None:
    got: list[object] = []

    def accept(answer: object) -> str:
        got.append(answer)
        return "no"

    accepts = Acceptance(accept)
    sink = FileSink(NewFile(tmp_path / "0001.txt")) if in_file else BytesSink()
    assert accepts.value(final(sink, data, form=form)) == "no"
    assert accepts.prose("some prose") == "no"
    assert got == [seen, "some prose"]


def test_without_a_condition_everything_counts() -> None:
    assert Acceptance().value(final(BytesSink(), "not JSON", form="json")) is None
    assert Acceptance().prose("anything") is None


def test_refused_answers_leave_nothing_but_the_last_one_when_it_is_kept(tmp_path: Path) -> None:
    accepts = Acceptance(lambda answer: "no")
    sinks = [FileSink(NewFile(tmp_path / "0001.txt")) for _ in range(3)]
    for sink in sinks:
        accepts.value(final(sink, "half", form="text"))
    accepts.forget_refused(kept=sinks[2])
    (left,) = tmp_path.iterdir()
    sinks[2].file.commit()
    assert not left.exists() and (tmp_path / "0001.txt").read_text() == "half"


def test_an_answer_that_could_not_be_kept_is_not_blamed_on_the_model() -> None:
    accepts = Acceptance(lambda answer: "no")
    failed = FailedSink(StateError("Could not write answers/0001.txt.", "No space left on device."))
    assert accepts.value(final(failed, "7", form="text")) is None


def test_what_cannot_be_parsed_is_told() -> None:
    accepts = Acceptance(lambda answer: None)
    why = accepts.value(final(BytesSink(), "{", form="json"))
    assert why is not None and why.startswith("it is not JSON: ")
