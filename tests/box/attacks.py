"""Cells that attack the process they run in, its memory, its clock or its output, as a table."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Attack:
    """`ends` are the ways it may end; `meets` is in what is shown or given as the reason.

    Where one way is `rolled_back`, `error` or `interrupted`, that it ended so shows that it was alive.
    """

    id: str
    cell: str
    ends: tuple[str, ...]
    meets: str = ""


OK, ERROR, INTERRUPTED, ROLLED_BACK = ("ok",), ("error",), ("interrupted",), ("rolled_back",)

SPIN = """
def spin(*_):
    while True: pass
"""

MEMORY = (
    Attack(id="M1-bytearray", cell="bytearray(2 << 30)", ends=ERROR, meets="MemoryError"),
    Attack(id="M1-str", cell="'x' * (8 << 30)", ends=ERROR, meets="MemoryError"),
    Attack(
        id="M3-children",
        cell="""
import os, subprocess, sys
program = 'held = bytearray(b"x" * (120 << 20)); import time; time.sleep(600)'
children = [subprocess.Popen([sys.executable, '-c', program], stderr=subprocess.DEVNULL) for _ in range(6)]
os.wait()  # the first that the kernel kills
for child in children:
    child.kill()
print('killed')
""",
        ends=("ok", "rolled_back"),
    ),
    Attack(
        id="M4-shared",
        cell="""
import mmap
pages = mmap.mmap(-1, 1 << 30)
for start in range(0, 1 << 30, 1 << 20):
    pages[start : start + (1 << 20)] = bytes(1 << 20)
""",
        ends=ROLLED_BACK,
        meets="memory 402653184",
    ),
)

ENDLESS = (
    Attack(id="C1-loop", cell="while True: pass", ends=INTERRUPTED, meets="KeyboardInterrupt"),
    Attack(
        id="C2-swallow",
        cell="""
import time
while True:
    try:
        while True: time.sleep(0.01)
    except BaseException: pass
""",
        ends=ROLLED_BACK,
        meets="killed",
    ),
    Attack(id="C3-native", cell="sum(range(10**12))", ends=ROLLED_BACK, meets="killed"),
    Attack(id="C4-regex", cell="import re; re.match('(a+)+b', 'a' * 60)", ends=INTERRUPTED),
    Attack(
        id="C5-ignored",
        cell="import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        ends=ROLLED_BACK,
        meets="killed",
    ),
    Attack(
        id="C5-blocked",
        cell="import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nwhile True: pass",
        ends=ROLLED_BACK,
        meets="killed",
    ),
    Attack(id="C6-power", cell="9 ** (10 ** 9)", ends=("interrupted", "rolled_back")),
    Attack(
        id="C7-settrace",
        cell=f"{SPIN}\nimport sys; sys.settrace(spin); (lambda: 1)()",
        ends=("interrupted", "rolled_back"),
    ),
    Attack(
        id="C7-del",
        cell=f"{SPIN}\nclass Sticky: __del__ = spin\nsticky = Sticky(); del sticky; print('freed')",
        ends=("ok", "rolled_back"),
    ),
    Attack(
        id="X1-fork-bomb",
        cell="import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        ends=("interrupted", "rolled_back"),
    ),
    Attack(id="X5-stop", cell="import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", ends=ROLLED_BACK),
    Attack(id="O1-print", cell="while True: print('go' * 100)", ends=INTERRUPTED, meets="left out"),
    Attack(
        id="O7-hang",
        cell=f"{SPIN}\nclass Odd(Exception): __str__ = spin\nraise Odd",
        ends=("error", "rolled_back"),
    ),
)

PROCESS = (
    Attack(
        id="C7-hooks",
        cell=f"{SPIN}\nimport atexit, sys, threading\natexit.register(spin)\n"
        "sys.excepthook = threading.excepthook = sys.unraisablehook = spin",
        ends=OK,
    ),
    Attack(
        id="X2-daemon",
        cell="""
import os, time
if not os.fork():
    os.setsid()
    if not os.fork(): time.sleep(600)
    os._exit(0)
""",
        ends=OK,
    ),
    Attack(id="X3-kill-all", cell="import os; os.kill(-1, 9)", ends=("ok", "rolled_back")),
    Attack(id="X4-kill-init", cell="import os\nfor number in (9, 15, 2): os.kill(1, number)", ends=OK),
    Attack(id="X6-segfault", cell="import ctypes; ctypes.string_at(0)", ends=ROLLED_BACK, meets="SIGSEGV"),
    Attack(id="X6-abort", cell="import os; os.abort()", ends=ROLLED_BACK, meets="SIGABRT"),
    Attack(id="X6-exit", cell="import os; os._exit(3)", ends=ROLLED_BACK, meets="exit 3"),
    Attack(id="X6-exec", cell="import os; os.execv('/bin/true', ['true'])", ends=ROLLED_BACK, meets="exit 0"),
    Attack(id="X7-sys.exit", cell="import sys; sys.exit('bye')", ends=ERROR, meets="SystemExit: bye"),
    Attack(
        id="X8-recursion",
        cell="import sys; sys.setrecursionlimit(10**9)\nclass A: __repr__ = lambda self: repr([self])\nA()",
        ends=("error", "rolled_back"),
    ),
    Attack(
        id="X9-builtins",
        cell="import builtins\n"
        "for name in ('len', 'print', 'compile', 'open', 'repr', '__import__'):\n"
        "    setattr(builtins, name, None)",
        ends=OK,
    ),
    Attack(id="X9-clear", cell="import builtins; vars(builtins).clear()", ends=("ok", "rolled_back")),
    Attack(
        id="X10-threads",
        cell="""
import threading, time
for _ in range(200):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
""",
        ends=ERROR,
        meets="can't start new thread",
    ),
    Attack(id="X11-helpers", cell="llm_query = FINAL = context = print", ends=OK, meets="put back"),
    Attack(
        id="X11-stdout",
        cell="import sys; sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None",
        ends=OK,
    ),
    Attack(
        id="X11-modules", cell="import sys; sys.modules['json'] = sys.modules['__main__'] = None", ends=OK
    ),
    Attack(id="X11-json", cell="import json; json.dumps = json.loads = None", ends=("ok", "rolled_back")),
    Attack(
        id="X11-main", cell="import _thread, time; _thread.interrupt_main(); time.sleep(9)", ends=INTERRUPTED
    ),
    Attack(id="X13-close-all", cell="import os; os.closerange(0, 1024)", ends=("ok", "rolled_back")),
    Attack(
        id="X13-limits",
        cell="""
import resource
for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
    resource.setrlimit(kind, (1, 1))
""",
        ends=("ok", "rolled_back"),
    ),
    Attack(
        id="X13-wake",
        cell="""
import os, signal, time
for pid in os.listdir('/proc'):
    if pid.isdigit() and int(pid) not in (1, os.getpid()):
        os.kill(int(pid), signal.SIGUSR2)
time.sleep(0.2)
""",
        ends=OK,
    ),
)

OUTPUT = (
    Attack(id="O2-line", cell="print('x' * 50_000_000)", ends=OK, meets="characters left out"),
    # Escapes are the screen's to make harmless: tests/ui. Here they must not disturb the stream.
    Attack(
        id="O3-escapes", cell=r"print('\x1b]52;c;eA==\x07\x1b[2J\x9b\u202e')", ends=OK, meets="\x1b]52;c;"
    ),
    Attack(id="O4-surrogate", cell=r"print('a\udc80b'); '\ud800'", ends=OK, meets=r"a\udc80b"),
    Attack(id="O4-error", cell=r"raise ValueError('a\udc80b')", ends=ERROR, meets=r"a\udc80b"),
    Attack(id="O4-path", cell=r"load_file('a\udc80b')", ends=ERROR, meets="PermissionError"),
    Attack(
        id="O5-fd1",
        cell="import os; _ = os.write(1, b'C\\0\\0raw\\n'), os.system('echo echo')",
        ends=OK,
        meets="raw\necho\n",
    ),
    Attack(
        id="O6-str",
        cell="class Odd:\n    def __str__(self): raise KeyboardInterrupt\nprint(Odd())",
        ends=("error", "interrupted"),
    ),
    Attack(
        id="O7-exit",
        cell="import os\nclass Odd(Exception):\n    def __str__(self): os._exit(4)\nraise Odd",
        ends=("error", "rolled_back"),
    ),
    Attack(
        id="O8-names",
        cell=r"globals()['\x1b[2J'] = type('\x1b[3J', (), {})(); SHOW_VARS()",
        ends=OK,
        meets="keep: list",
    ),
)
