"""`uv run main.py COMMAND` from a checkout is the same program as `rlm COMMAND` once installed."""

from rlm.cli import main

if __name__ == "__main__":
    main()
