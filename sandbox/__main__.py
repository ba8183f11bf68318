"""Entry point of the container: `python3 -E -s -m sandbox TARGET…`, with the mounted paths as arguments."""

from sandbox.supervisor import main

if __name__ == "__main__":
    main()
