"""What `session.jsonl` holds, as a closed union of frozen dataclasses, and the session they add up to.

A record is written once and never changed: undoing a turn, or beginning a session, is one more record.
Records come from the engine, go to disk through `rlm.state`, and come back as a `SessionView`. Nothing
here reads or writes a file.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, assert_never

from rlm.events import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStarted:
    """A session begins: earlier turns and snapshots are out of it, documents and consents stay.

    `created` is ISO 8601.
    """

    session: str
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsSet:
    """The documents from here on, whole, each as the JSON of a `rlm.documents.Document`."""

    documents: tuple[dict[str, Any], ...]
    active: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentGiven:
    """The user allowed this resolved path to be read."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnBegan:
    turn: int
    question: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageAdded:
    """One message between program and root model, in order."""

    turn: int
    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSpent:
    """What the turn under way has taken so far: it counts when the turn never ends."""

    turn: int
    usage: Usage
    by_model: dict[str, Usage]
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """`status` as in `events.TurnFinished`; `answer` is a file name in `answers/`, None without one.

    `summary` is the one message that the turn is compacted to, `brief` a line of it for when it is older. An
    earlier version recorded no `brief`, and no `summary` with compaction off.
    """

    turn: int
    status: str
    steps: int
    answer: str | None
    answer_format: str
    answer_bytes: int
    summary: str
    usage: Usage
    by_model: dict[str, Usage]
    duration_s: float
    brief: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnsCompacted:
    """The user wants the turns up to this one told in their shortest form."""

    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnUndone:
    """This turn and all after it are out of the session, and so are the snapshots they left.

    What they cost, and what the user allowed to be read, stays. So do the documents: where those are to be
    taken back too, a `DocumentsSet` comes before it, see `SessionView.to_take_back`.
    """

    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable of the namespace as it is listed. `size` is text: `1,200 items`, `38 characters`."""

    name: str
    type: str
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSaved:
    """The namespace is in `snapshots/`, but for the variables `skipped`: pairs of name and reason.

    `size_bytes` is all that a restore reads, `written_bytes` what was not there before; `sha256` is that of
    the file's payload. `waited_s` is how long the user waited for it, `created` as in `SessionStarted`. An
    earlier version did not record the last three.
    """

    generation: int
    turn: int
    size_bytes: int
    sha256: str
    skipped: tuple[tuple[str, str], ...]
    variables: tuple[Variable, ...]
    written_bytes: int = 0
    waited_s: float = 0.0
    created: str = ""


Record = (
    SessionStarted
    | DocumentsSet
    | ConsentGiven
    | TurnBegan
    | TurnSpent
    | MessageAdded
    | TurnEnded
    | TurnsCompacted
    | TurnUndone
    | SnapshotSaved
)

_KINDS: dict[object, type[Record]] = {
    kind.__name__: kind
    for kind in (
        SessionStarted,
        DocumentsSet,
        ConsentGiven,
        TurnBegan,
        TurnSpent,
        MessageAdded,
        TurnEnded,
        TurnsCompacted,
        TurnUndone,
        SnapshotSaved,
    )
}


def to_json(record: Record) -> dict[str, Any]:
    """The record as it stands in `session.jsonl`: its fields, and its name under `record`."""
    if isinstance(record, DocumentsSet):  # `asdict` copies deeply, and there may be ten thousand
        return {"record": "DocumentsSet", "documents": record.documents, "active": record.active}
    return {"record": type(record).__name__, **dataclasses.asdict(record)}


def from_json(fields: dict[str, Any]) -> Record | None:
    """Undo `to_json`. None for a kind or a shape that is not known here: a later version may write it.

    Fields that are not known are left out.
    """
    try:
        return parse(_KINDS[fields["record"]], fields)
    except (KeyError, TypeError, ValueError):
        return None


T = TypeVar("T")


def parse(kind: type[T], fields: Any) -> T:
    """A dataclass from a JSON object, each field of its type; fields it does not have are left out.

    Raises `TypeError` or `ValueError`.
    """
    given = _object(fields)
    known = dataclasses.fields(kind)  # type: ignore[arg-type]  # each kind here is a dataclass
    return kind(**{f.name: _PARSERS[f.type](given[f.name]) for f in known if f.name in given})


def _exactly(*types: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) not in types:
            raise TypeError(f"{type(value).__name__} instead of {types[0].__name__}")
        return value

    return check


_object = _exactly(dict)
_list = _exactly(list)
_text = _exactly(str)


def _pair(value: Any) -> tuple[str, str]:
    first, second = _list(value)
    return _text(first), _text(second)


_PARSERS: dict[object, Callable[[Any], Any]] = {
    int: _exactly(int),
    str: _text,
    bool: _exactly(bool),
    float: _exactly(float, int),
    str | None: _exactly(str, type(None)),
    float | None: _exactly(float, int, type(None)),
    Usage: partial(parse, Usage),
    dict[str, Usage]: lambda value: {model: parse(Usage, usage) for model, usage in _object(value).items()},
    tuple[dict[str, Any], ...]: lambda value: tuple(_object(item) for item in _list(value)),
    tuple[tuple[str, str], ...]: lambda value: tuple(_pair(item) for item in _list(value)),
    tuple[Variable, ...]: lambda value: tuple(parse(Variable, item) for item in _list(value)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A finished turn: the question, the root model's messages in order, and how it ended.

    `before` and `after` are the documents at its beginning and end.
    """

    question: str
    messages: tuple[MessageAdded, ...]
    ended: TurnEnded
    before: DocumentsSet
    after: DocumentsSet


@dataclass(slots=True, kw_only=True)
class SessionView:
    """A session as its records tell it. `add` keeps it up to date.

    `interrupted` is the turn that has begun and not ended. `usage`, `by_model` and `seconds` count what was
    spent, undone turns included. Turns are numbered, and snapshots too, across all sessions of a folder, so
    `next_turn` names neither a turn nor an answer that was. Turns up to `compacted_to` are told in short.
    """

    session: str = ""
    created: str = ""
    documents: tuple[dict[str, Any], ...] = ()
    active: str | None = None
    consents: set[str] = field(default_factory=set)
    turns: list[Turn] = field(default_factory=list)
    interrupted: TurnBegan | None = None
    usage: Usage = field(default_factory=Usage)
    by_model: dict[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    snapshots: list[SnapshotSaved] = field(default_factory=list)
    next_turn: int = 1
    last_generation: int = 0
    compacted_to: int = 0
    _messages: list[MessageAdded] = field(default_factory=list)
    _before: DocumentsSet = DocumentsSet(documents=(), active=None)
    """The documents when `interrupted` began."""
    _spent: tuple[Usage, dict[str, Usage], float] | None = None
    """Usage, that by model, and seconds when the turn under way began."""

    @classmethod
    def fold(cls, records: Iterable[Record]) -> "SessionView":
        view = cls()
        for record in records:
            view.add(record)
        return view

    def copy(self) -> "SessionView":
        """The session as it is now; what is added to either does not change the other."""
        return dataclasses.replace(
            self,
            consents=set(self.consents),
            turns=list(self.turns),
            by_model=dict(self.by_model),
            snapshots=list(self.snapshots),
            _messages=list(self._messages),
        )

    def add(self, record: Record) -> None:
        match record:
            case SessionStarted():
                self._begin_session(record)
            case DocumentsSet():
                self.documents, self.active = record.documents, record.active
            case ConsentGiven():
                self.consents.add(record.path)
            case TurnBegan():
                self.interrupted = record
                self._before = self._documents
                self._spent = (self.usage, dict(self.by_model), self.seconds)
                self._messages.clear()
                self._count(record.turn)
            case TurnSpent():
                self._spend(record)
            case MessageAdded():
                self._messages.append(record)
                self._count(record.turn)
            case TurnEnded():
                self._end_turn(record)
            case TurnsCompacted():
                self.compacted_to = max(self.compacted_to, record.turn)
            case TurnUndone():
                self.turns = [turn for turn in self.turns if turn.ended.turn < record.turn]
                self.snapshots = [saved for saved in self.snapshots if saved.turn < record.turn]
                if self.interrupted and self.interrupted.turn >= record.turn:
                    self.interrupted = None
            case SnapshotSaved():
                self.snapshots.append(record)
                self.last_generation = max(self.last_generation, record.generation)
            case _:
                assert_never(record)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables that the newest snapshot holds."""
        if not self.snapshots:
            return ()
        skipped = dict(self.snapshots[-1].skipped)
        return tuple(row for row in self.snapshots[-1].variables if row.name not in skipped)

    @property
    def last(self) -> TurnBegan | None:
        """Number and question of the last turn, finished or not; None when there is no turn."""
        if self.interrupted or not self.turns:
            return self.interrupted
        return TurnBegan(turn=self.turns[-1].ended.turn, question=self.turns[-1].question)

    def to_take_back(self) -> tuple[Record, ...]:
        """What has to be recorded, in order, to take back the last turn, finished or not.

        Nothing when there is no turn. Documents that were loaded after it stay.
        """
        if self.last is None:
            return ()
        now = self._documents
        before, after = (
            (self._before, now) if self.interrupted else (self.turns[-1].before, self.turns[-1].after)
        )
        documents = before if now == after else _without(now, added=_paths(after) - _paths(before))
        undone = TurnUndone(turn=self.last.turn)
        return (undone,) if documents == now else (documents, undone)

    @property
    def _documents(self) -> DocumentsSet:
        return DocumentsSet(documents=self.documents, active=self.active)

    def _begin_session(self, record: SessionStarted) -> None:
        self.session, self.created = record.session, record.created
        self.turns.clear()
        self.interrupted = None
        self.usage = Usage()
        self.by_model.clear()
        self.seconds = 0.0
        self._spent = None
        self.snapshots.clear()
        self._messages.clear()

    def _end_turn(self, record: TurnEnded) -> None:
        # A damaged line may have taken the beginning: what is left of the turn still counts.
        began = self.interrupted if self.interrupted and self.interrupted.turn == record.turn else None
        self.turns.append(
            Turn(
                question=began.question if began else "",
                messages=tuple(message for message in self._messages if message.turn == record.turn),
                ended=record,
                before=self._before if began else self._documents,
                after=self._documents,
            )
        )
        self.interrupted = None
        self._messages.clear()
        self._count(record.turn)
        self._spend(record)
        self._spent = None

    def _spend(self, record: TurnSpent | TurnEnded) -> None:
        """Count what a turn took, in place of what was counted of it before."""
        usage, by_model, seconds = self._spent or (self.usage, self.by_model, self.seconds)
        self.usage = usage + record.usage
        self.seconds = seconds + record.duration_s
        self.by_model = dict(by_model)
        for model, taken in record.by_model.items():
            self.by_model[model] = self.by_model.get(model, Usage()) + taken

    def _count(self, turn: int) -> None:
        self.next_turn = max(self.next_turn, turn + 1)


def _paths(documents: DocumentsSet) -> set[object]:
    return {row.get("path") for row in documents.documents}


def _without(documents: DocumentsSet, *, added: set[object]) -> DocumentsSet:
    """These documents but for those at the paths `added`."""
    kept = tuple(row for row in documents.documents if row.get("path") not in added)
    names = [str(row.get("name")) for row in kept]
    active = documents.active or ""
    stays = any(active == name or active.startswith(f"{name}/") for name in names)
    return DocumentsSet(documents=kept, active=active if stays else next(iter(names), None))
