"""The log keeps what it was given, whatever is done to the file or to its writer."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm.errors import StateError
from rlm.log import Log, NewFile

KEYS_AND_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | KEYS_AND_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS_AND_TEXT, inner, max_size=3),
    max_leaves=8,
)
on_real_files = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def filled(path: Path, count: int = 3) -> Log:
    path.unlink(missing_ok=True)
    log = Log(path)
    for n in range(count):
        log.append({"n": n, "text": "line\nend\u2028"})
    return log


def numbers(log: Log) -> list[int]:
    return [record["n"] for record in log.read()]


def run_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@on_real_files
@given(records=st.lists(st.dictionaries(KEYS_AND_TEXT, JSON, max_size=4), max_size=5))
def test_reads_back_what_was_appended(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    (tmp_path / "log").unlink(missing_ok=True)
    log = Log(tmp_path / "log")
    for record in records:
        log.append(record, durable=True)
    # Two lone surrogates in a row are one character once they went through JSON, hence the detour.
    assert list(log.read()) == [json.loads(json.dumps(record)) for record in records]
    assert log.damaged == 0


def test_a_line_is_json_that_any_tool_reads_and_no_terminal_obeys(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.append({"text": "Grüße, 世界\x1b[31m\x9b31m\u2028\u202e\x7f\ud800"})
    raw = (tmp_path / "log").read_bytes()
    assert raw.count(b"\n") == 1
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    line = raw.decode().rstrip("\n")
    assert line.isprintable()
    assert "Grüße, 世界" in line
    assert json.loads(line)["text"] == "Grüße, 世界\x1b[31m\x9b31m\u2028\u202e\x7f\ud800"


def test_nothing_is_there_before_the_first_line(tmp_path: Path) -> None:
    assert list(Log(tmp_path / "log").read()) == []
    assert not (tmp_path / "log").exists()


def test_the_file_is_the_users_alone(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@on_real_files
@given(cut=st.integers(1, 10_000))
def test_a_torn_end_costs_only_itself(tmp_path: Path, cut: int) -> None:
    log = filled(tmp_path / "log")
    whole = log.path.read_bytes()
    kept = whole[: len(whole) - 1 - cut % (len(whole) - 1)]
    log.path.write_bytes(kept)

    # A line that lacks nothing but its end is still whole.
    complete = sum(len(kept) >= end - 1 for end in line_ends(whole))
    assert numbers(log) == list(range(complete))
    assert log.damaged == 0

    log.append({"n": 99})
    assert numbers(log) == [*range(complete), 99]


def line_ends(data: bytes) -> list[int]:
    return [position + 1 for position, byte in enumerate(data) if byte == ord("\n")]


@on_real_files
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_costs_one_line_or_two(tmp_path: Path, position: int, bit: int) -> None:
    log = filled(tmp_path / "log", 5)
    data = bytearray(log.path.read_bytes())
    position %= len(data) - 1
    data[position] ^= 1 << bit
    log.path.write_bytes(data)

    hit = bytes(data[:position]).count(b"\n")
    at_end_of_line = position + 1 in line_ends(filled(tmp_path / "other", 5).path.read_bytes())
    lost = {hit, hit + 1} if at_end_of_line else {hit}
    assert numbers(log) == [n for n in range(5) if n not in lost]
    assert log.damaged >= 1


def test_a_later_read_counts_damage_afresh(tmp_path: Path) -> None:
    log = filled(tmp_path / "log")
    log.path.write_bytes(b"rubbish\n" + log.path.read_bytes() + b"\0" * 4096 + b"\n" + b'{"torn')
    for _ in range(2):
        assert numbers(log) == [0, 1, 2]
        assert log.damaged == 2


def test_a_line_with_a_right_checksum_over_wrong_content_is_damaged(tmp_path: Path) -> None:
    log = filled(tmp_path / "log", 1)
    first = log.path.read_bytes()
    log.append({"n": 1})
    second = log.path.read_bytes()[len(first) :]
    log.path.write_bytes(first[:16] + second[16:] + second)
    assert numbers(log) == [1]
    assert log.damaged == 1


def test_a_reader_stops_at_the_end_it_saw_while_the_writer_goes_on(tmp_path: Path) -> None:
    log = filled(tmp_path / "log")
    log.path.write_bytes(log.path.read_bytes()[:-1])
    reader = log.read()
    assert [next(reader)["n"] for _ in range(3)] == [0, 1, 2]
    log.append({"n": 3})
    assert (list(reader), log.damaged) == ([], 0)
    assert numbers(log) == [0, 1, 2, 3]


WRITER = """
import sys
from pathlib import Path
from rlm.log import Log
log = Log(Path(sys.argv[1]))
n = int(sys.argv[2])
while True:
    log.append({"n": n, "text": "x" * 50_000})
    print(n, flush=True)
    n += 1
"""


def test_kill_9_loses_no_line_that_was_acknowledged(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    acknowledged = -1
    for lines_before_kill in range(1, 13):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(log.path), str(acknowledged + 1)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        for _ in range(lines_before_kill):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        # Until the very end of the pipe: what is in there was written before the kill.
        rest, _ = writer.communicate()
        acknowledged += lines_before_kill + rest.count(b"\n")
        found = numbers(log)
        assert found[: acknowledged + 1] == list(range(acknowledged + 1))
        # One line may have been written and not acknowledged; the next writer writes it again.
        acknowledged = found[-1]


LIMITED = """
import resource, sys
from pathlib import Path
from rlm.errors import StateError
from rlm.log import Log
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
log = Log(Path(sys.argv[1]))
try:
    log.append({"n": 3, "text": "x" * 100_000})
except StateError as error:
    print(f"{error}|{error.hint}")
log.append({"n": 4})
"""


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    log = filled(tmp_path / "log")
    done = run_child(LIMITED, log.path, log.path.stat().st_size + 10_000)
    assert done.returncode == 0, done.stderr
    message, hint = done.stdout.strip().split("|")
    assert message == f"Could not write {log.path}. File too large."
    assert "Free some space" in hint
    assert numbers(log) == [0, 1, 2, 4]
    assert log.damaged == 0


@pytest.mark.parametrize("plant", ["symlink", "fifo", "folder"])
def test_only_a_regular_file_is_a_log(tmp_path: Path, plant: str) -> None:
    secret, path = tmp_path / "secret", tmp_path / "log"
    secret.write_text("secret\n")
    match plant:
        case "symlink":
            path.symlink_to(secret)
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    with pytest.raises(StateError, match="not a regular file"):
        Log(path).append({"n": 1})
    with pytest.raises(StateError, match="not a regular file"):
        list(Log(path).read())
    assert secret.read_text() == "secret\n"


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    log = filled(tmp_path / "log")
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"cost_usd": float("nan")})
    with pytest.raises(TypeError):
        log.append({"path": Path("x")})
    assert log.path.read_bytes() == before


def test_a_vanished_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"gone/log.* No such file"):
        Log(tmp_path / "gone" / "log").append({"n": 1})


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    with NewFile(path) as file:
        file.write(b"one ")
        file.write(memoryview(b"two"))
        assert not path.exists()
    assert path.read_bytes() == b"one two"
    assert file.size_bytes == 7

    with pytest.raises(KeyError), NewFile(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"one two"
    assert os.listdir(tmp_path) == ["answer"]
    with pytest.raises(ValueError, match="committed or aborted"):
        file.write(b"late")


def test_a_file_may_be_aborted_within_its_block(tmp_path: Path) -> None:
    with NewFile(tmp_path / "answer") as file:
        file.write(b"half")
        file.abort()
    assert os.listdir(tmp_path) == []
