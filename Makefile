# The two commands that set everything up from a bare clone: `make demo` and `make test`.
.PHONY: help env setup demo test bench check format clean

help:
	@echo "make demo    set everything up and see a whole run: no key, no network to a model"
	@echo "make test    set everything up and run the tests"
	@echo "make bench   measure it, beside the plain tools for the same things (benchmarks/README.md)"
	@echo "make check   format, lint and types"
	@echo "make format  put the format right"
	@echo "make clean   remove what make made (.venv, caches)"

env:
	@scripts/python-env

setup: env
	@scripts/docker-engine
	@scripts/sandbox-base

demo: setup
	@.venv/bin/python main.py demo

test: setup
	@scripts/test-tools
	.venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(TESTS)

bench: setup
	@for name in load grep lines slices sql; do \
		.venv/bin/python -m benchmarks.$$name --size 300MB --runs 1 $(BENCH) && echo || exit 1; done
	@.venv/bin/python -m benchmarks.many --files 1000 --runs 1 $(BENCH) && echo
	@.venv/bin/python -m benchmarks.convert --size 100MB --pages 200 --runs 1 $(BENCH) && echo
	@.venv/bin/python -m benchmarks.subcalls --calls 100 1000 --latency 0.5 $(BENCH) && echo
	@.venv/bin/python -m benchmarks.persist --size 100MB --array 50MB --dicts 100000 --runs 1 $(BENCH)

check: env
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: env
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
