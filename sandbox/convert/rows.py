"""The rows of a Parquet file as CSV, in constant memory. It answers no queries: SQL reads the file itself."""

import os
import re

import duckdb

from sandbox.convert.output import ConvertError, Write

ROWS_AT_ONCE = 512

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "memory_limit": "512MB",
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_NESTED = re.compile(r"(STRUCT|MAP|UNION)\(.*|.*\]", re.DOTALL)
_SOURCE = "read_parquet(?, hive_partitioning = false)"


def convert_parquet(path: str, write: Write) -> None:
    """Write a header and the rows as CSV: NULL as nothing, nested values as JSON, times in UTC.

    Bytes that are not UTF-8 are told by their number. Raises `ConvertError` when the file is damaged or
    encrypted, and when a part of it does not fit in memory.
    """
    literal = re.sub(r"([*?\[])", r"[\1]", os.path.abspath(path))  # a path is a pattern to DuckDB
    try:
        with duckdb.connect(":memory:", config=_CONFIG) as database:
            database.execute("SET TimeZone = 'UTC'")
            columns = database.execute(f"DESCRIBE SELECT * FROM {_SOURCE}", [literal]).fetchall()  # noqa: S608
            texts = ", ".join(f"{_text(name, kind)} AS v{i}" for i, (name, kind, *_) in enumerate(columns))
            fields = ", ".join(_field(f"v{i}") for i in range(len(columns)))
            query = f"SELECT concat_ws(',', {fields}) FROM (SELECT {texts} FROM {_SOURCE})"  # noqa: S608
            rows = database.execute(query, [literal])
            write(",".join(_quoted(name) for name, *_ in columns) + "\n")
            while batch := rows.fetchmany(ROWS_AT_ONCE):
                write("".join(f"{row}\n" for (row,) in batch))
    except duckdb.OutOfMemoryException as error:
        raise ConvertError(
            "needs more memory than converting may take: write it with smaller row groups, or save it as CSV"
        ) from error
    except duckdb.Error as error:
        detail = " ".join(str(error).partition("\n\nLINE ")[0].replace(f" '{literal}'", "").split())[:200]
        if "encrypt" in detail.lower():
            raise ConvertError("is encrypted: save it without encryption and load it again") from error
        raise ConvertError(f"is damaged or cut off, or not a Parquet file: {detail}") from error


def _text(name: str, kind: str) -> str:
    """SQL for a value as text, NULL if it is NULL."""
    column = '"' + name.replace('"', '""') + '"'
    if kind == "BLOB":
        return f"coalesce(TRY(decode({column})), '(' || octet_length({column}) || ' bytes)')"
    if _NESTED.fullmatch(kind):
        return f"CAST(to_json({column}) AS VARCHAR)"
    return f"CAST({column} AS VARCHAR)"


def _field(column: str) -> str:
    """SQL for a text as a field of CSV: quoted where it must be, and where it would look like NULL."""
    quoted = f"""'"' || replace({column}, '"', '""') || '"'"""
    return (
        f"CASE WHEN {column} IS NULL THEN '' "
        f"""WHEN {column} = '' OR regexp_matches({column}, '[",\\n\\r]') THEN {quoted} ELSE {column} END"""
    )


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if re.search('[",\n\r]', text) or not text else text
