"""What a namespace is after it was saved and loaded again, and what of it is written when little changed."""

import hashlib
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import dill
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import blobs, snapshot
from sandbox.blobs import LARGE_BYTES, PINNED_BYTES, BlobError, BlobReader, BlobWriter, Pins
from sandbox.chunks import chunks
from sandbox.documents import open_document
from sandbox.rows import Rows
from sandbox.search import grep
from sandbox.snapshot import Reference
from sandbox.subcalls import SubCallError
from tests.guest import write

BOUND = 1 << 40


@dataclass
class Store:
    """A folder for blobs and the last stream, as the host has them; and what the last save sent."""

    folder: Path
    pins: Pins = field(default_factory=Pins)
    stream: bytes = b""
    needed: dict[str, int] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def save(
        self,
        values: dict[str, Any],
        *,
        references: Iterable[tuple[object, Reference]] = (),
        max_bytes: int = BOUND,
    ) -> None:
        attempts: list[bytearray] = []

        def begin() -> Callable[[bytes], None]:
            attempts.append(bytearray())
            return attempts[-1].extend

        def send(sha256: str, pieces: Iterable[bytes]) -> None:
            self.sent.append(sha256)
            (self.folder / sha256).write_bytes(b"".join(pieces))

        self.sent.clear()
        have = b"".join(bytes.fromhex(path.name) for path in self.folder.iterdir())
        writer = BlobWriter(have, self.pins, send)
        saved = snapshot.save(values, references, begin=begin, writer=writer, max_bytes=max_bytes)
        self.stream, self.needed = bytes(attempts[-1]), writer.needed
        self.skipped = dict(saved.skipped)
        assert saved.sha256 == hashlib.sha256(self.stream).hexdigest()

    def load(
        self,
        resolve: Callable[[Reference], Any] = lambda reference: None,
        namespace: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        reader = BlobReader(str(self.folder))
        values, lost = snapshot.load(self.stream, resolve, reader, {} if namespace is None else namespace)
        return values, dict(lost)

    def back(self, values: dict[str, Any]) -> dict[str, Any]:
        """`values` saved and loaded, without any loss."""
        self.save(values)
        loaded, lost = self.load()
        assert (self.skipped, lost) == ({}, {})
        return loaded


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "blobs"
    folder.mkdir()
    return Store(folder)


@dataclass
class Cells:
    """Namespaces as `__main__`, one after the other, in which code runs."""

    namespace: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        module = sys.modules["__main__"] = ModuleType("__main__")
        self.namespace = vars(module)
        dill._dill._main_module = module

    def run(self, code: str) -> None:
        exec(code, self.namespace)

    def shows(self, expression: str) -> Any:
        return eval(expression, self.namespace)

    def variables(self) -> dict[str, Any]:
        return {name: value for name, value in self.namespace.items() if not name.startswith("__")}

    def restart(self, store: Store) -> dict[str, str]:
        """Save, and load into a new namespace; returns what was lost on the way back."""
        store.save(self.variables())
        self.begin()
        _, lost = store.load(namespace=self.namespace)
        return lost


@pytest.fixture
def cells() -> Iterator[Cells]:
    main, dills = sys.modules["__main__"], dill._dill._main_module
    cells = Cells()
    cells.begin()
    yield cells
    sys.modules["__main__"], dill._dill._main_module = main, dills


FUNCTIONS = {
    "recursion": ("def f(n): return n if n < 2 else f(n - 1) + f(n - 2)", "f(10) == 55"),
    "globals": (
        "limit = 1\ndef f(): return limit",
        "f() == 1 and not globals().update(limit=7) and f() == 7",
    ),
    "lambda": ("double = lambda n: 2 * n", "double(21) == 42"),
    "closure": ("def outer(n):\n def inner(): return n\n return inner\nseven = outer(7)", "seven() == 7"),
    "shared cell": (
        "def pair():\n c = 0\n def up():\n  nonlocal c\n  c += 1\n def get(): return c\n return up, get\n"
        "up, get = pair(); up()",
        "up() is None and get() == 2",
    ),
    "closure over a variable": (
        "def make():\n data = [1]\n def get(): return data\n return get, data\nget, data = make()",
        "get() is data",
    ),
    "closure over itself": (
        "def make():\n def f(n): return 1 if n < 1 else n * f(n - 1)\n return f\nfact = make()",
        "fact(5) == 120 and fact.__closure__[0].cell_contents is fact",
    ),
    "closures over each other": (
        "def make():\n def even(n): return n == 0 or odd(n - 1)\n def odd(n): return n != 0 and even(n - 1)\n"
        " return even, odd\neven, odd = make()",
        "even(10) and odd(7) and odd.__closure__[0].cell_contents is even",
    ),
    "empty cell": (
        "def make():\n def f(): return later\n if False: later = 1\n return f\nf = make()",
        "f.__closure__[0] == type(f.__closure__[0])()",
    ),
    "defaults": (
        "def f(a, /, b=[1], *, c={'x': 1}) -> int: 'doc'\nb = f.__defaults__[0]",
        "f.__defaults__[0] is b and f.__kwdefaults__ == {'c': {'x': 1}} and f.__doc__ == 'doc'",
    ),
    "decorated": (
        "import functools\ndef plus(f):\n @functools.wraps(f)\n def g(*a): return f(*a) + 1\n return g\n"
        "@plus\ndef same(x): return x\nsame.note = [1]",
        "same(1) == 2 and same.note == [1] and same.__name__ == 'same' and same.__wrapped__(1) == 1",
    ),
    "cached": (
        "import functools\n@functools.lru_cache(maxsize=7)\ndef f(n): return n if n < 2 else f(n-1) + f(n-2)",
        "f(20) == 6765 and f.cache_info().maxsize == 7",
    ),
    "partial": (
        "from functools import partial; five = partial(sum, start=5); p = partial(lambda a, b: a - b, 1)",
        "five([1]) == 6 and p(2) == -1",
    ),
    "of another namespace": (
        "ns = {}\nexec('def f(): return g()\\ndef g(): return 3', ns)\nf = ns['f']",
        "f() == 3 and f.__globals__ is ns",
    ),
    "single dispatch": (
        "import functools\n@functools.singledispatch\ndef f(x): return 'any'\n"
        "@f.register\ndef _of_int(x: int): return 'int'",
        "(f(''), f(1)) == ('any', 'int')",
    ),
    "generator function": ("def gen():\n yield 1\nasync def co(): return 1", "list(gen()) == [1]"),
    "code": ("c = compile('1 + 1', 'x', 'eval')", "eval(c) == 2"),
    "builtin": ("up = str.upper; join = ', '.join; n = len", "up(join('ab')) == 'A, B' and n([1]) == 1"),
}

CLASSES = {
    "instance": (
        "class A:\n def me(self): return type(self) is A\na = A(); a.self = a",
        "a.me() and a.self is a",
    ),
    "in two variables": ("class A: pass\na = A(); many = [A(), a]", "type(many[0]) is A and many[1] is a"),
    "super": (
        "class A:\n def v(self): return 1\nclass B(A):\n def v(self): return super().v() + 1\nb = B()",
        "b.v() == 2 and isinstance(b, A)",
    ),
    "nested": ("class A:\n class B: v = 1\nb = A.B()", "type(b) is A.B"),
    "only its instance": ("class A:\n def v(self): return 7\na = A(); del A", "a.v() == 7"),
    "methods": (
        "class A:\n @property\n def p(self): return 5\n @staticmethod\n def s(): return 6\n"
        " @classmethod\n def c(cls): return cls\na = A(); bound = a.c",
        "(a.p, A.s(), bound()) == (5, 6, A)",
    ),
    "bound method": (
        "class A:\n def v(self): return self.n\na = A(); a.n = 9; bound = a.v",
        "bound() == 9 and bound.__self__ is a",
    ),
    "slots": (
        "class A:\n __slots__ = ('v', '__weakref__')\na = A(); a.v = a",
        "a.v is a and not hasattr(a, '__dict__')",
    ),
    "attribute that is a variable": ("data = [1]\nclass A: held = data", "A.held is data"),
    "singleton": (
        "class A:\n one = None\n def __new__(cls):\n  cls.one = cls.one or super().__new__(cls)\n"
        "  return cls.one\na = A()",
        "A() is a is A.one",
    ),
    "descriptor": (
        "class D:\n def __set_name__(self, o, n): self.n = n\n def __get__(self, i, o): return self.n\n"
        "class A: field = D()",
        "A().field == 'field'",
    ),
    "registry": (
        "class A:\n known = []\n def __init_subclass__(cls, tag): A.known.append((tag, cls))\n"
        "class B(A, tag=1): pass",
        "A.known == [(1, B)]",
    ),
    "metaclass": (
        "class M(type):\n def __new__(m, n, b, d, tag): return super().__new__(m, n, b, d)\n"
        " def __init__(c, n, b, d, tag): c.tag = tag\nclass A(metaclass=M, tag=1): pass",
        "A.tag == 1 and type(A) is M",
    ),
    "abstract": (
        "import abc\nclass A(abc.ABC):\n @abc.abstractmethod\n def m(self): ...\nclass B(A):\n"
        " def m(self): return 1\nA.register(int)\nb = B()",
        "isinstance(b, A) and isinstance(3, A) and A.__abstractmethods__ == {'m'}",
    ),
    "dataclass": (
        "from dataclasses import dataclass, field\n@dataclass(order=True)\nclass P:\n x: int = 1\n"
        " l: list = field(default_factory=list)\np = P(5)",
        "p == P(5) and repr(P()) == 'P(x=1, l=[])' and P(1) < P(2)",
    ),
    "frozen dataclass": (
        "import dataclasses\n@dataclasses.dataclass(frozen=True, slots=True)\nclass P:\n x: int\n"
        "p = {P(5): 1}",
        "p[P(5)] == 1 and dataclasses.fields(P)[0].default is dataclasses.MISSING",
    ),
    "namedtuple": (
        "from collections import namedtuple\nN = namedtuple('N', 'a b')\nn = N(1, 2)",
        "n == N(1, 2) and n._replace(a=5).a == 5",
    ),
    "NamedTuple": (
        "from typing import NamedTuple\nclass N(NamedTuple):\n a: int\n b: str = 'x'\n"
        " def twice(self): return 2 * self.a\nn = N(4)",
        "n.twice() == 8 and n == N(4, 'x')",
    ),
    "TypedDict": ("from typing import TypedDict\nclass D(TypedDict):\n a: int", "D(a=1) == {'a': 1}"),
    "generic": (
        "from typing import Generic, TypeVar\nT = TypeVar('T', bound=int)\nclass G(Generic[T]): pass\n"
        "g = G[int]()",
        "type(g) is G and G.__parameters__ == (T,)",
    ),
    "protocol": (
        "from typing import Protocol, runtime_checkable\n@runtime_checkable\nclass P(Protocol):\n"
        " def m(self): ...\nclass A:\n def m(self): ...",
        "isinstance(A(), P) and not isinstance(1, P)",
    ),
    "names of types": (
        "from typing import NewType, ParamSpec, TypeVarTuple\nU = NewType('U', int)\nP = ParamSpec('P')\n"
        "Ts = TypeVarTuple('Ts')",
        "U(3) == 3 and (P.__name__, Ts.__name__) == ('P', 'Ts')",
    ),
    "enum": (
        "import enum\nclass E(enum.Enum):\n A = 1\n B = 2\n def next(self): return E.B\ne = {E.A: 1}",
        "e[E.A] == 1 and E.A.next() is E.B is E(2)",
    ),
    "enum with super": (
        "import enum\nclass E(enum.Enum):\n X = (1, 2)\n def __init__(self, a, b): self.sum = a + b\n"
        " def __str__(self): return 'E of ' + super().__str__()\ne = E.X",
        "e is E.X and e.sum == 3 and str(e) == 'E of E.X'",
    ),
    "enum with new": (
        "import enum\nclass E(enum.Enum):\n A = 'a'\n def __new__(cls, v):\n  made = object.__new__(cls)\n"
        "  made._value_ = v; made.twice = 2 * v\n  return made",
        "E.A.twice == 'aa' and E('a') is E.A",
    ),
    "flag": ("import enum\nclass F(enum.Flag):\n A = 1\n B = 2\nf = F.A | F.B", "f is F.A | F.B"),
    "exception": (
        "class E(Exception):\n def __init__(self, a, b):\n  super().__init__(f'{a}{b}'); self.a = a\n"
        "e = E(1, 2); o = OSError(2, 'm')",
        "type(e) is E and (str(e), e.a, o.errno) == ('12', 1, 2)",
    ),
    "subclass of dict": (
        "class D(dict):\n def __missing__(self, key): return 5\nd = D(a=1); d['d'] = d",
        "d['q'] == 5 and d['d'] is d and type(d) is D",
    ),
    "hashed by its value": (
        "class H:\n def __init__(self, v): self.v = v\n def __hash__(self): return hash(self.v)\n"
        " def __eq__(self, o): return self.v == o.v\ns = {H(1)}; d = {H(2): 'x'}",
        "H(1) in s and d[H(2)] == 'x'",
    ),
}

VALUES = {
    "text": ("a, b, c = 1, 'é\\udc80', b'\\0'", "(a, b, c) == (1, 'é\\udc80', b'\\0')"),
    "cycle": ("a = [1]; b = (a,); a.append(b)", "b[0] is a and a[1] is b"),
    "modules": ("import json as j, os.path as p", "j.dumps([]) == '[]' and p.join('a', 'b') == 'a/b'"),
    "module made here": (
        "import types; m = types.ModuleType('mine'); exec('x = 3\\ndef f(): return x', vars(m))",
        "m.f() == 3",
    ),
    "itself": ("import sys; g = globals(); m = sys.modules['__main__']", "g is globals() is vars(m)"),
    "pattern": ("import re; p = re.compile('a+', re.I)", "p.match('AA').end() == 2"),
    "times": (
        "import datetime as d; t = d.datetime(2024, 2, 29, tzinfo=d.timezone(d.timedelta(hours=1)))",
        "t.isoformat() == '2024-02-29T00:00:00+01:00'",
    ),
    "numbers": (
        "import decimal, fractions; d = decimal.Decimal('1.10'); f = fractions.Fraction(1, 3)",
        "str(d) == '1.10' and 3 * f == 1",
    ),
    "collections": (
        "from collections import *\nq = deque([1, 2], maxlen=2); f = defaultdict(lambda: [7]); f['a']\n"
        "c = Counter('aab'); o = OrderedDict(b=1, a=2); s = frozenset({1})",
        "(q.maxlen, f['z'], c['a'], list(o), s) == (2, [7], 2, ['b', 'a'], {1})",
    ),
    "views": (
        "from types import *; d = {'a': 1}; k = d.keys(); m = MappingProxyType(d); n = SimpleNamespace(d=d)",
        "list(k) == ['a'] and m['a'] == 1 and n.d is d",
    ),
    "types": (
        "import types; t = [int, type(None), type(...), types.FunctionType, list[int], int | None]",
        "t == [int, type(None), type(...), types.FunctionType, list[int], int | None]",
    ),
    "arrays": (
        "import array; a = array.array('d', [1.5] * 20_000); b = array.array('i', [1, 2]); c = [a]",
        "(len(a), a[-1], list(b)) == (20_000, 1.5, [1, 2]) and not a.append(2) and c[0] is a",
    ),
    "memory": (
        "b = bytearray(100_000); m = memoryview(b); f = m.cast('I'); part = m[9:70_009]; r = memoryview(b'')",
        "m.obj is b and f.format == 'I' and len(part) == 70_000 and r.readonly"
        " and not m.__setitem__(0, 65) and b[0] == 65",
    ),
    "equal bytearrays": (
        "a = bytearray(70_000); b = bytearray(70_000); c = [a]",
        "c[0] is a and a is not b and not a.append(1) and len(b) == 70_000",
    ),
    "large texts": (
        "s = 'é' * 70_000; c = [s]; odd = '\\udc80\\ud83d\\ude00' * 70_000; d = b'\\xff' * 70_000",
        "c[0] is s == 'é' * 70_000 and odd == '\\udc80\\ud83d\\ude00' * 70_000 and d == b'\\xff' * 70_000",
    ),
    "buffer of a class": (
        "import pickle\nclass F:\n def __init__(self, data): self.data = data\n"
        " def __reduce_ex__(self, protocol): return F, (pickle.PickleBuffer(self.data),)\n"
        "a, b, c = F(bytearray(70_000)), F(bytearray(70_000)), F(b'1' * 70_000)",
        "a.data is not b.data and not a.data.append(1) and len(b.data) == 70_000 and c.data == b'1' * 70_000",
    ),
    "files in memory": ("import io; f = io.BytesIO(b'abc'); f.read(1)", "f.read() == b'bc'"),
    "weak reference": ("import weakref\nclass A: pass\na = A(); w = weakref.ref(a)", "w() is a"),
}


@pytest.mark.parametrize(("code", "check"), [*FUNCTIONS.values(), *CLASSES.values(), *VALUES.values()])
def test_comes_back_as_it_was(cells: Cells, store: Store, code: str, check: str) -> None:
    cells.run(code)
    for _ in range(2):  # what was loaded can be saved again
        assert cells.restart(store) == {}
        assert store.skipped == {}
    assert cells.shows(check) is True


def test_lock_comes_back_free(cells: Cells, store: Store) -> None:
    cells.run("import threading; a, b = threading.Lock(), threading.RLock(); a.acquire()")
    assert cells.restart(store) == {}
    assert cells.shows("a.acquire(blocking=False), b.acquire(blocking=False)") == (True, True)
    assert isinstance(cells.namespace["a"], type(threading.Lock()))


def test_values_of_the_sandbox_come_back(tmp_path: Path, store: Store) -> None:
    spec = write(tmp_path / "log.txt", b"one error\nanother line\n" * 50)
    text = open_document(spec, str_limit_bytes=100)
    found = grep(text, "err(or)", context_lines=1)
    values = {
        "found": found,
        "rows": Rows(("a",), ("BIGINT",), ((1,), (2,))),
        "failed": SubCallError("budget reached"),
        "chunks": chunks("x" * 250, 100),
        "text": text,
        "piece": chunks(text, 100)[1],
    }
    store.save(values, references=[(text, ("document", "log.txt"))])
    loaded, lost = store.load(lambda reference: text if reference == ("document", "log.txt") else None)
    assert lost == {}
    assert loaded["text"] is loaded["piece"].source is text
    assert (loaded["found"], repr(loaded["found"])) == (found, repr(found))
    assert loaded["rows"].dicts() == [{"a": 1}, {"a": 2}]
    assert (str(loaded["failed"]), bool(loaded["failed"])) == ("budget reached", False)
    assert [chunk.id for chunk in loaded["chunks"]] == ["context#0000", "context#0001", "context#0002"]


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
LARGE = ["x" * LARGE_BYTES, b"y" * LARGE_BYTES]


@st.composite
def graphs(draw: st.DrawFn) -> list[Any]:
    """Lists, dicts and sets that hold each other, themselves, and the same texts, in any way."""
    kinds = draw(st.lists(st.sampled_from([list, dict, set, deque]), min_size=1, max_size=8))
    nodes: list[Any] = [kind() for kind in kinds]
    leaves = [*draw(st.lists(plain, min_size=1, max_size=5)), *LARGE]
    for node in nodes:
        for number in range(draw(st.integers(0, 4))):
            leaf = draw(st.sampled_from(leaves))
            if isinstance(node, set):
                node.add(leaf)
                continue
            inside = draw(st.sampled_from([leaf, *nodes, (leaf, nodes[0])]))
            if isinstance(node, dict):
                node[number] = inside
            else:
                node.append(inside)
    return nodes


def shape(value: Any, seen: dict[int, int]) -> Any:
    """The same for two graphs that hold equal values in the same places and share the same containers."""
    if not isinstance(value, list | dict | set | deque | tuple):
        return repr(value)
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, set):
        return "set", sorted(map(repr, value))
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return type(value).__name__, [(key, shape(item, seen)) for key, item in items]


@given(nodes=graphs())
def test_plain_data_comes_back_with_what_it_shares(
    nodes: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("blobs"))
    values = {f"v{number}": node for number, node in enumerate(nodes)}
    assert shape(list(store.back(values).values()), {}) == shape(list(values.values()), {})


# -- what is written


def text(char: str) -> str:
    return char * LARGE_BYTES


def test_only_what_is_new_is_sent(store: Store) -> None:
    values: dict[str, Any] = {
        "texts": [text(char) for char in "abc"],
        "memory": bytearray(LARGE_BYTES),
        "n": 1,
    }
    store.save(values)
    assert len(store.sent) == 4
    assert store.needed == dict.fromkeys(store.sent, LARGE_BYTES)
    values["n"] = 2
    store.save(values)
    assert store.sent == []
    values["texts"][0] = text("é")
    values["memory"][5] = 1
    store.save(values)
    assert len(store.sent) == 2
    assert sorted(store.needed.values()) == [LARGE_BYTES, LARGE_BYTES, LARGE_BYTES, 2 * LARGE_BYTES]
    assert len(store.stream) < 1000
    assert store.load()[0] == values


def test_equal_values_are_one_blob(store: Store) -> None:
    store.save({"a": text("a"), "b": [text("a")], "c": text("a").encode()})
    assert store.sent == [hashlib.sha256(text("a").encode()).hexdigest()]


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES])
def test_small_values_stay_in_the_stream(store: Store, size: int) -> None:
    values = {"a": "a" * size, "b": b"b" * size, "c": bytearray(size)}
    assert store.back(values) == values
    assert len(store.sent) == (3 if size == LARGE_BYTES else 0)


def test_more_than_is_kept_leaves_out_the_largest(store: Store) -> None:
    values = {
        "small": list(range(1000)),
        "larger": text("b") * 3,
        "large": [text("c") * 2],
        "list": [text("d")],
    }
    store.save(values, max_bytes=4 * LARGE_BYTES)
    assert store.skipped == {"larger": "196.7 kB, more than is kept (sandbox.keep in config.json)"}
    assert len(store.stream) + sum(store.needed.values()) <= 4 * LARGE_BYTES
    del values["larger"]
    assert store.load() == (values, {})


def test_reserved_names_are_told_as_they_are_known(store: Store) -> None:
    store.save({".buffers": [text("a")], "b": 1}, max_bytes=LARGE_BYTES)
    assert list(store.skipped) == ["buffers"]
    assert store.load() == ({"b": 1}, {})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("bad = (n for n in 'ab')", "TypeError: cannot pickle 'generator' object"),
        ("bad = {'deep': [(n for n in 'ab')]}", "TypeError: cannot pickle 'generator' object"),
        ("import sys; bad = sys.__stderr__", "PicklingError: an open file"),
        ("class A:\n def __reduce__(self): raise ValueError('not me')\nbad = A()", "ValueError: not me"),
        (
            "import ctypes\nclass bad(ctypes.Structure): pass",
            "PicklingError: the class bad is one of _ctypes",
        ),
    ],
)
def test_what_cannot_be_saved_costs_itself_only(cells: Cells, store: Store, code: str, reason: str) -> None:
    cells.run(f"before = [1]\n{code}\nafter = [before, 'x' * {LARGE_BYTES}]")
    cells.restart(store)
    assert store.skipped == {"bad": reason}
    assert cells.shows("after[0] is before and 'bad' not in globals()")


# -- digests that are known


def long(char: str) -> str:
    return char * PINNED_BYTES


def test_string_that_is_held_is_hashed_once(store: Store) -> None:
    values = {"a": long("a"), "b": {"c": [long("b").encode()]}, "short": text("s"), "list": [[]]}
    pins = store.pins.take(values.values(), but=set())
    assert {pin.value for pin in pins} == {values["a"], long("b").encode()}
    store.save(values)
    found = blobs.hashed(pins)
    other = Store(store.folder)
    learnt = other.pins.take(values.values(), but=set())
    blobs.learn(learnt, found.replace(pins[0].digest, bytes(32)))
    other.save(values)
    assert other.needed.keys() == {
        "00" * 32,
        *(name for name in store.needed if name != pins[0].digest.hex()),
    }


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 44, b"\xff" * 1000])
def test_what_else_a_forked_process_tells_is_passed_over(data: bytes) -> None:
    pins = Pins().take([long("a")], but=set())
    blobs.learn(pins, data)
    assert pins[0].digest == b""


def test_string_that_nobody_holds_is_let_go() -> None:
    pins = Pins()
    values = [long("a"), long("b")]
    taken = pins.take(values, but=set())
    del values[0]
    pins.drop_unused()
    assert [pin.value for pin in taken] == [None, long("b")]
    assert pins.find(values[0]) is taken[1]


def test_digest_that_comes_late_is_not_taken_for_that_of_another_string(store: Store) -> None:
    values = {"a": long("a")}
    late = store.pins.take(values.values(), but=set())
    store.save(values)
    told = blobs.hashed(late)
    values["a"] = long("b")
    store.pins.drop_unused()
    store.pins.take(values.values(), but=set())
    blobs.learn(late, told)
    assert store.back(values) == values


def test_documents_are_not_pinned() -> None:
    document = long("a")
    assert Pins().take([document, [document]], but={id(document)}) == []


# -- when something is wrong


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"b" + path.read_bytes()[1:]),
        lambda path: path.rename(path.parent / "away") and path.mkdir(),
    ],
    ids=["missing", "empty", "cut short", "altered", "a folder"],
)
def test_blob_that_is_not_what_it_was_is_named(store: Store, damage: Callable[[Path], object]) -> None:
    store.save({"a": text("a"), "b": 1})
    damage(store.folder / store.sent[0])
    with pytest.raises(BlobError, match=store.sent[0]):
        store.load()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "class A:\n def __setstate__(self, state): raise ValueError('no')\nbad = A(); bad.x = 1",
            "ValueError: no",
        ),
        ("class A:\n def __reduce__(self): return exec, ('raise SystemExit',)\nbad = [{A()}]", "SystemExit:"),
        (
            "class A:\n def __reduce__(self): return len, (1,), {'x': 1}\nbad = (A(), 1)",
            "TypeError: object of",
        ),
        (
            "class A:\n def __hash__(self): return self.h\na = A(); a.h = 1; bad = {a}; a.h = ''; del a",
            "TypeError: __hash__",
        ),
        ("import gone; bad = [gone.f]", "ModuleNotFoundError:"),
    ],
)
def test_value_that_cannot_be_made_costs_itself_only(
    cells: Cells, store: Store, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    gone = ModuleType("gone")
    exec("def f(): pass", vars(gone))
    monkeypatch.setitem(sys.modules, "gone", gone)
    cells.run(f"shared = [1]\n{code}\nafter = {{'k': shared, 'text': 'x' * {LARGE_BYTES}}}\ngone = 0")
    store.save(cells.variables())
    monkeypatch.delitem(sys.modules, "gone")
    cells.begin()
    values, lost = store.load()
    assert lost.keys() == {"bad"}
    assert lost["bad"].startswith(reason)
    assert values["after"]["k"] is values["shared"]
    assert len(values["after"]["text"]) == LARGE_BYTES
    assert "bad" not in values


@pytest.mark.parametrize(
    "code",
    [
        "import json\n{}a = A(); a.x = '[1]'",
        "{}a = A(); a.x = '[1]'\nimport json",
    ],
    ids=["before", "after"],
)
def test_what_makes_a_value_may_use_other_variables(cells: Cells, store: Store, code: str) -> None:
    needs = "class A:\n def __setstate__(self, state): self.x = json.loads(state['x'])\n"
    cells.run(code.format(needs))
    assert cells.restart(store) == {}
    assert cells.shows("a.x") == [1]


def test_variable_that_shares_what_cannot_be_made_is_lost_too(cells: Cells, store: Store) -> None:
    cells.run("class A:\n def __reduce__(self): return len, (1,)\nbad = A(); also = [bad]; fine = [A]")
    assert cells.restart(store).keys() == {"bad", "also"}
    assert cells.shows("fine[0] is A")


@pytest.mark.parametrize("cut", [0, 40, -1])
def test_stream_that_is_cut_short_is_refused(store: Store, cut: int) -> None:
    store.save({"a": [1], "b": {"c": 2}})
    store.stream = store.stream[:cut]
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        store.load()


def test_stream_of_dill_is_read(cells: Cells, store: Store) -> None:
    """Snapshots of earlier versions are."""
    cells.run("limit = 1\ndef f(): return limit")
    store.stream = dill.dumps(cells.variables(), protocol=5, recurse=False)
    cells.begin()
    values, lost = store.load()
    cells.namespace.update(values)
    assert (cells.shows("f()"), lost) == (1, {})
