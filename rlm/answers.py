"""Where the value of FINAL goes: from the stream into a file of the state folder, whatever its size."""

from pathlib import Path

from rlm.box.wire import BytesSink, Sink
from rlm.errors import StateError
from rlm.events import Answer
from rlm.log import NewFile
from rlm.snapshots import SnapshotWriter
from rlm.state import State

TEXT_BYTES = 1024 * 1024
"""Of a longer answer, the event carries only the beginning."""


class FileSink:
    """A large body straight into a file. Keeps its first error for whoever looks at the result."""

    def __init__(self, file: NewFile | SnapshotWriter) -> None:
        self.file = file
        self.error: StateError | None = None

    def write(self, data: bytes) -> None:
        if self.error is None:
            try:
                self.file.write(data)
            except StateError as error:
                self.error = error


class FailedSink(BytesSink):
    """A place that could not be opened: takes everything and keeps only the reason."""

    def __init__(self, error: StateError) -> None:
        super().__init__()
        self.error = error

    def write(self, data: bytes) -> None:
        return None


def write_answer(
    value: Sink | None, text: str | None, *, form: str, state: State, turn: int
) -> Answer | None:
    """The answer as a file: `value` as it came from FINAL, or else `text`; None when there is neither.

    Raises `StateError` when it cannot be kept.
    """
    if isinstance(value, FailedSink):
        raise value.error
    if isinstance(value, FileSink):
        if value.error:
            raise value.error
        assert isinstance(value.file, NewFile)
        value.file.commit()
    elif text is not None or isinstance(value, BytesSink):
        data = value.data if isinstance(value, BytesSink) else (text or "").encode()
        with state.new_answer(turn) as file:
            file.write(data)
    else:
        return None
    return read_answer(state.answer_path(turn), form=form)


def read_answer(path: Path, *, form: str) -> Answer:
    """An answer that has been kept."""
    with path.open("rb") as written:
        head = written.read(TEXT_BYTES)
    size_bytes = path.stat().st_size
    return Answer(
        path=str(path),
        size_bytes=size_bytes,
        format=form,
        text=head.decode("utf-8", "replace"),
        complete=size_bytes <= TEXT_BYTES,
    )
