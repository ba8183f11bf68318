"""`sql` answers over files of every format and encoding, within its memory, across forks and interrupts."""

import datetime
import decimal
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sandbox.rows import Rows
from sandbox.tables import SqlError, Table, Tables

MiB = 1024 * 1024
SALES = "city,qty\nZürich,3\nBern,2\nZürich,4\n"
SALES_ROWS = [("Zürich", 3), ("Bern", 2), ("Zürich", 4)]

Ask = Callable[..., Rows]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


class Documents:
    """Files in a folder, as documents of a namespace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: dict[str, Table] = {}
        self.active: str | None = None

    def add(
        self, name: str, content: str | bytes = SALES, *, kind: str = "csv", encoding: str = "utf-8"
    ) -> Path:
        path = self.folder / f"{len(self.tables)} {name.replace('/', '_')}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        self.tables[name] = Table(str(path), kind, encoding)
        self.active = name
        return path

    def sql(self, memory_bytes: int = 1024 * MiB) -> Ask:
        return Tables(lambda: self.tables, active=lambda: self.active, memory_bytes=memory_bytes).sql


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return Documents(tmp_path)


# -- names


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("sales.csv", "from sales"),
        ("sales.csv", "from SALES"),
        ("sales.csv", 'from "sales.csv"'),
        ("sales.csv", "from 'sales.csv'"),
        ("sales.csv", "from doc"),
        ("sales", "from sales"),
        ("2024/März sales (1).csv", 'from "2024/März sales (1).csv"'),
        ('it\'s "so".csv', 'from "it\'s ""so"".csv"'),
        ('it\'s "so".csv', "from 'it''s \"so\".csv'"),
        ("a*b[1]?.csv", 'from "a*b[1]?.csv"'),
        ("日本語.csv", "from 日本語"),
        ("select.csv", 'from "select"'),
        ("sales.csv", "select s.* from (select * from sales) s -- from nothing"),
        ("sales.csv", "with t as (from sales) from t"),
        ("sales.csv", "select 1; from sales"),
    ],
)
def test_a_document_goes_by_its_name(documents: Documents, name: str, query: str) -> None:
    documents.add(name)
    (documents.folder / "0 a_b1x.csv").write_text("what a pattern would find\n")
    assert list(documents.sql()(query)) == SALES_ROWS


def test_documents_are_joined(documents: Documents) -> None:
    documents.add("2024/sales.csv")
    documents.add("cities.jsonl", '{"city": "Bern", "people": 134}\n{"city": "Basel"}\n', kind="jsonl")
    rows = documents.sql()('select c.city, qty, people from "2024/sales.csv" join cities c using (city)')
    assert rows.dicts() == [{"city": "Bern", "qty": 2, "people": 134}]


def test_doc_follows_the_active_document(documents: Documents) -> None:
    documents.add("a.csv", "n\n1\n")
    documents.add("b.csv", "n,m\n2,3\n")
    sql = documents.sql()
    assert list(sql("from doc")) == [(2, 3)]
    documents.active = "a.csv"
    assert list(sql("from doc")) == [(1,)]


def test_a_file_that_has_changed_is_looked_at_again(documents: Documents) -> None:
    path = documents.add("a.csv", "n\n1\n")
    sql = documents.sql()
    assert sql("from a").columns == ("n",)
    path.write_text("other,columns\nx,y\n")
    assert sql("from a").columns == ("other", "columns")


def test_a_name_in_a_cte_or_of_a_table_of_ones_own_goes_first(documents: Documents) -> None:
    documents.add("sales.csv")
    sql = documents.sql()
    assert list(sql("with sales as (select 7) from sales")) == [(7,)]
    sql("create table sales as select sum(qty) as total from sales")
    assert list(sql("from sales")) == [(9,)]
    sql("drop table sales")
    assert list(sql("from sales")) == SALES_ROWS


def test_a_column_may_be_called_like_a_document_that_cannot_be_read(documents: Documents) -> None:
    documents.add("qty.parquet", b"PAR1, and no more", kind="parquet")
    documents.add("sales.csv")
    assert list(documents.sql()("select qty from sales limit 1")) == [(3,)]
    with pytest.raises(SqlError, match="No magic bytes"):
        documents.sql()("from qty")


def test_views_survive_a_rollback(documents: Documents) -> None:
    documents.add("sales.csv")
    sql = documents.sql()
    for query in ("begin", "from sales", "rollback"):
        sql(query)
    assert list(sql("from sales")) == SALES_ROWS


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ('from "notes.txt"', "'notes.txt' is text, not a table: CSV, TSV, JSON, JSON Lines and Parquet "),
        ("from doc", "the active document 'notes.txt' is text, not a table"),
        ("from report", "'report.pdf' is PDF, not a table"),
        ("from sale", "no table 'sale'; did you mean '2024/sales.csv'\\? .* as in from \"2024/sales.csv\""),
        ("from qwzx", "no table 'qwzx'; these documents are: '2024/sales.csv'"),
        ('from "2025.csv"', "no table '2025.csv'; did you mean"),
        ("from costs", "'costs' may be 'costs.csv' or 'costs.json': write the whole name, in double quotes"),
        ("from costs.csv", "'costs.csv' is a document: write its name in double quotes, .* \"costs.csv\""),
        ('from "A.csv" join "a.csv" using (city)', "'A.csv' and 'a.csv' differ only in case"),
        ("select nothing from costs.json", "double quotes"),
    ],
)  # fmt: skip
def test_a_name_that_is_no_table_is_explained(documents: Documents, query: str, said: str) -> None:
    for name in ("2024/sales.csv", "costs.csv", "A.csv", "a.csv"):
        documents.add(name)
    documents.add("costs.json", "[]", kind="json")
    documents.add("report.pdf", "%PDF-", kind="pdf")
    documents.add("notes.txt", "hello", kind="text")
    with pytest.raises(SqlError, match=said):
        documents.sql()(query)


def test_without_documents_it_says_so(documents: Documents) -> None:
    assert list(documents.sql()("select 1 + 1")) == [(2,)]
    with pytest.raises(SqlError, match="no document is active"):
        documents.sql()("from doc")
    with pytest.raises(SqlError, match="no document here is a table"):
        documents.sql()("from sales")


# -- formats and encodings


def parquet(folder: Path) -> bytes:
    path = folder / "made.parquet"
    duckdb.execute(f"copy (select 'Zürich' as city, 3 as qty) to '{path}' (format parquet)")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "content", "encoding"),
    [
        ("csv", "city;qty\nZürich;3\n", "utf-8"),
        ("csv", "city,qty\r\nZürich,3\r\n", "utf-8-sig"),
        ("csv", "city,qty\nZürich,3\n", "latin-1"),
        ("csv", "city,qty\nZürich,3\n", "cp1252"),
        ("csv", "city,qty\nZürich,3\n", "utf-16-le"),
        ("csv", "\ufeffcity,qty\nZürich,3\n", "utf-16-le"),
        ("csv", "\ufeffcity,qty\nZürich,3\n", "utf-16-be"),
        ("tsv", "city\tqty\nZürich\t3\n", "utf-8"),
        ("json", '[{"city": "Zürich", "qty": 3}]', "utf-8"),
        ("json", '[{"city": "Zürich", "qty": 3}]', "utf-8-sig"),
        ("json", '{"city": "Zürich", "qty": 3}', "utf-16-le"),
        ("jsonl", '{"city": "Zürich", "qty": 3}\n', "latin-1"),
        ("parquet", None, "utf-8"),
    ],
)
def test_formats_and_encodings(
    documents: Documents, tmp_path: Path, kind: str, content: str | None, encoding: str
) -> None:
    documents.add("x", content or parquet(tmp_path), kind=kind, encoding=encoding)
    rows = documents.sql()("from x")
    assert (rows.columns, list(rows)) == (("city", "qty"), [("Zürich", 3)])


def test_windows_quotes_in_a_file_taken_for_latin_1_do_not_stop_it(documents: Documents) -> None:
    documents.add("x.csv", "a,b\n“x”,1\n".encode("cp1252"), encoding="latin-1")
    assert documents.sql()("select b from x").column("b") == [1]


def test_a_large_file_is_read_as_latin_1_where_that_is_the_same(documents: Documents) -> None:
    lines = "city,qty\n" + "Zürich,1\n" * 900_000
    documents.add("same.csv", lines, encoding="cp1252")
    documents.add("not.csv", lines + "“Bern”,1\n", encoding="cp1252")
    documents.add("no.csv", lines, encoding="utf-16-be")
    sql = documents.sql(256 * MiB)
    assert list(sql("select city, sum(qty) from same group by city")) == [("Zürich", 900_000)]
    with pytest.raises(SqlError, match="not latin-1"):
        sql('select max(city) from "not.csv"')
    with pytest.raises(SqlError, match="is in utf-16-be, which SQL reads only of small files"):
        sql('from "no.csv" limit 1')


def test_nested_json(documents: Documents) -> None:
    documents.add("x.jsonl", '{"a": {"b": [1, 2]}, "c": "é"}\n{"a": null, "c": "d"}\n', kind="jsonl")
    sql = documents.sql()
    assert list(sql("from x")) == [({"b": [1, 2]}, "é"), (None, "d")]
    assert list(sql("select unnest(a.b) as n from x")) == [(1,), (2,)]


def test_one_json_object_of_many_megabytes(documents: Documents) -> None:
    rows = ",".join(f'{{"n": {n}, "t": "{"x" * 100}"}}' for n in range(200_000))
    documents.add("x.json", f'{{"rows": [{rows}]}}', kind="json")
    query = "select sum(r.n) from (select unnest(rows) as r from x)"
    assert list(documents.sql(2048 * MiB)(query)) == [(sum(range(200_000)),)]
    with pytest.raises(SqlError, match=r"maximum_object_size.*in Python, with json"):
        documents.sql(256 * MiB)(query)


def test_what_cannot_be_guessed_can_be_said(documents: Documents) -> None:
    path = documents.add("x.csv", "a,b\n" + "1,2\n" * 60_000 + "none,3\n")
    sql = documents.sql()
    with pytest.raises(SqlError, match="Could not convert") as raised:
        sql("select max(a) from x")
    hint = re.search(r"from read_csv\('(.+)', all_varchar=true", str(raised.value))
    assert hint and hint[1] == str(path)
    assert list(sql(f"select max(a) from read_csv('{path}', all_varchar=true)")) == [("none",)]


# -- memory


@pytest.fixture(scope="module")
def large_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.csv"
    duckdb.execute(f"copy (select range as n, 'some text ' || range as t from range(6_000_000)) to '{path}'")
    return path


def test_a_file_larger_than_the_memory_of_queries(documents: Documents, large_csv: Path) -> None:
    documents.tables["large.csv"] = Table(str(large_csv), "csv")
    assert large_csv.stat().st_size > 140 * MiB
    sql = documents.sql(256 * MiB)
    assert list(sql("select count(*), sum(n), max(t) from large")) == [
        (6_000_000, sum(range(6_000_000)), "some text 999999")
    ]
    assert list(sql("select n % 3 as k, count(*) from large group by k order by k")) == [
        (0, 2_000_000), (1, 2_000_000), (2, 2_000_000)
    ]  # fmt: skip
    assert sql("from large limit 2").column("n") == [0, 1]
    with pytest.raises(SqlError, match=r"needs more memory than the sandbox gives it \(134\.2 MB\): filter"):
        sql("select array_agg(t) from large")
    assert sql("from large limit 1").column("n") == [0]


def test_memory_and_address_space_are_given_back(tmp_path: Path, large_csv: Path) -> None:
    """A worker has little of both, and the next cell, and its twin, need them."""
    run_apart(
        tmp_path,
        f"""
        import resource
        large = {{"large.csv": Table({str(large_csv)!r}, "csv")}}
        tables = Tables(lambda: large, active=lambda: None, memory_bytes=512 * MiB)
        resource.setrlimit(resource.RLIMIT_DATA, (384 * MiB, 384 * MiB))
        distinct = "select count(distinct t) from large where n < 2_000_000"
        assert tables.sql(distinct).items == ((2_000_000,),)
        with open("/proc/self/statm") as numbers:
            _, resident, shared, *_ = map(int, numbers.read().split())
        assert (resident - shared) * resource.getpagesize() < 80 * MiB
        held = bytearray(240 * MiB)
        with pytest.raises(SqlError, match="more memory"):
            tables.sql(distinct)
        assert len(tables.sql("from large limit 5")) == 5
        """,
    )


def test_too_many_rows(documents: Documents) -> None:
    sql = documents.sql()
    with pytest.raises(SqlError, match=r"more than 100,000 rows: aggregate, filter or LIMIT"):
        sql("from range(1_000_000_000_000)")
    assert len(sql("from range(100_000)")) == 100_000
    assert len(sql("from range(100_001)", max_rows=200_000)) == 100_001
    assert len(sql("from range(3)", max_rows=3)) == 3
    with pytest.raises(SqlError, match="more than 2 rows"):
        sql("from range(3)", max_rows=2)
    with pytest.raises(SqlError, match="at least 1"):
        sql("select 1", max_rows=0)


# -- statements and errors


def test_statements_and_parameters(documents: Documents, tmp_path: Path) -> None:
    documents.add("sales.csv")
    sql = documents.sql()
    assert sql("create view big as from sales where qty > 2") == Rows()
    assert sql("") == sql("-- nothing") == Rows()
    assert sql("select sum(qty) from big").items == ((7,),)
    assert sql("select qty from sales where city = ?", parameters=["Bern"]).items == ((2,),)
    assert sql("select qty from sales where city = $c", parameters={"c": "Bern"}).items == ((2,),)
    assert sql("describe doc").column("column_name") == ["city", "qty"]
    assert sql("pivot sales on city using sum(qty)").dicts() == [{"Bern": 2, "Zürich": 7}]
    sql(f"copy (from sales) to '{tmp_path}/out.csv'")
    assert (tmp_path / "out.csv").read_text() == SALES


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("selec 1", 'syntax error at or near "selec"'),
        ("select nothing from sales", 'column "nothing" not found'),
        ("select 'it", "unterminated"),
        ("from 's3://bucket/x.csv'", "no network"),
        ("from query", "no table 'query'"),
        ("select error('" + "long " * 1000 + "')", "long"),
    ],
)
def test_errors_say_what_is_wrong(documents: Documents, query: str, said: str) -> None:
    documents.add("sales.csv")
    sql = documents.sql()
    with pytest.raises(SqlError, match=said) as raised:
        sql(query)
    assert len(str(raised.value)) <= 1100
    assert list(sql("from sales")) == SALES_ROWS


# -- results


VALUES = """select 1 as n, 1.50::decimal(9, 2) as d, date '2024-02-29' as day, null as nothing,
    [1, 2] as l, {'a': 'b'} as s, 'x'::blob as b, timestamp '2024-01-02 03:04:05' as t"""


def test_rows_are_plain_values(documents: Documents) -> None:
    rows = documents.sql()(VALUES)
    expected: tuple[Any, ...] = (
        1, decimal.Decimal("1.50"), datetime.date(2024, 2, 29), None,
        [1, 2], {"a": "b"}, b"x", datetime.datetime(2024, 1, 2, 3, 4, 5),  # noqa: DTZ001
    )  # fmt: skip
    assert rows[0] == rows[-1] == expected
    assert rows[:1] == list(rows) == [expected]
    assert rows.types[:3] == ("INTEGER", "DECIMAL(9,2)", "DATE")
    assert rows.column("day") == [datetime.date(2024, 2, 29)]
    assert rows.dicts()[0]["s"] == {"a": "b"}
    with pytest.raises(KeyError, match="no column 'x'; there are: n, d, day"):
        rows.column("x")
    assert b"duckdb" not in pickle.dumps(rows)
    assert pickle.loads(pickle.dumps(rows)) == rows


def test_columns_of_one_name_are_kept_apart(documents: Documents) -> None:
    assert documents.sql()("select 1 as a, 2 as a, 3 as a_1").dicts() == [{"a": 1, "a_1": 2, "a_1_1": 3}]


def test_rows_print_as_a_table(documents: Documents) -> None:
    rows = documents.sql()(
        "select * from (values ('Zürich', 3, null), ('a\nb', 12, 'x')) as t(city, qty, \"the note\")"
    )
    assert repr(rows).splitlines() == [
        "city   | qty | the note",
        "-------+-----+---------",
        "Zürich |   3 | NULL",
        "a\\nb   |  12 | x",
        "(2 rows × 3 columns)",  # noqa: RUF001
    ]
    assert repr(Rows()) == "(no rows)"


def test_large_results_print_in_part(documents: Documents) -> None:
    sql = documents.sql()
    lines = repr(sql("select range as n, repeat('y', 100) as t from range(12_385)")).splitlines()
    assert lines[2].startswith("    0 | yyyy") and lines[2].endswith("y…") and len(lines[2]) == 88
    assert lines[22] == "… 12,345 rows more …"
    assert lines[23].startswith("12365 |")
    assert lines[-1] == "(12,385 rows × 2 columns)"  # noqa: RUF001
    columns = ", ".join(f"repeat('y', 500) as c{n}" for n in range(1000))
    wide = repr(sql(f"select {columns} from range(50)"))
    assert len(wide) <= 8000
    assert "(50 rows × 1,000 columns; the last 9" in wide  # noqa: RUF001


# -- processes


def run_apart(tmp_path: Path, code: str, **variables: str) -> None:
    """Run code in a process of its own, as the sandbox sets it up; it fails with what that process says."""
    prelude = """
        import os, signal, sys, tempfile, threading, warnings
        import pytest
        from sandbox.tables import Rows, SqlError, Table, Tables
        MiB = 1024 * 1024
        threading.stack_size(2 * MiB)
        warnings.simplefilter("ignore", DeprecationWarning)
    """
    source = textwrap.dedent(prelude) + textwrap.dedent(code)
    environment = {
        **os.environ,
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "TMPDIR": str(tmp_path),
        "HOME": "/nowhere",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_in_a_forked_process_there_is_a_new_engine(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(SALES)
    run_apart(
        tmp_path,
        f"""
        tables = Tables(
            lambda: {{"sales.csv": Table({str(path)!r}, "csv")}}, active=lambda: None, memory_bytes=1024 * MiB
        )

        def fork(work):
            child = os.fork()
            if not child:
                signal.alarm(30)
                code = 1
                try:
                    work()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0

        def ask():
            assert tables.sql("select sum(qty) from sales").items == ((9,),)
            assert tables.sql("select sum(range) from range(20_000_000)").items == ((199999990000000,),)

        def ask_in_child():
            with pytest.raises(SqlError, match="no table 'mine'"):
                tables.sql("from mine")
            ask()
            fork(lambda: None)
            fork(ask)
            ask()

        ask()
        tables.sql("create table mine as select 1")
        fork(lambda: None)
        fork(ask_in_child)
        ask()
        assert len(tables.sql("from mine")) == 1
        """,
    )


@pytest.mark.parametrize(
    "endless",
    [
        "select count(*) from range(1_000_000_000) a, range(1000) b where a.range * b.range % 7 = 3",
        "from range(1_000_000_000_000)",
        "select b from range(1_000_000_000_000) a(b) where b < 0",
    ],
)
def test_an_interrupt_ends_a_query(tmp_path: Path, endless: str) -> None:
    started = tmp_path / "started"
    code = f"""
        import threading
        from sandbox.tables import Tables
        threading.stack_size(2 * 1024 * 1024)
        tables = Tables(dict, active=lambda: None, memory_bytes=256 * 1024 * 1024)
        try:
            tables.sql("copy (select 1) to '{started}'; {endless}", max_rows=10**12)
        except KeyboardInterrupt:
            assert tables.sql("select 42").items == ((42,),)
            print("interrupted")
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not started.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "interrupted\n")


def test_times_with_a_zone_come_as_times(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("moment,what\n2024-01-01T10:00:00Z,start\n2024-01-01T12:30:00+02:00,stop\n")
    tables = Tables(
        lambda: {"log.csv": Table(str(path), "csv")}, active=lambda: "log.csv", memory_bytes=2**30
    )
    times = tables.sql("select moment from doc order by 1").column("moment")
    assert [time.astimezone(datetime.UTC).isoformat() for time in times] == [
        "2024-01-01T10:00:00+00:00",
        "2024-01-01T10:30:00+00:00",
    ]
