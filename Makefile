# The two commands of the README, each complete on a fresh clone.
#   make export   a measured bundle of the shipped weights, and enhanced photos, in build/
#   make test     the tests
#   make docs     the documents as pages, in build/site
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: export test check docs wheel clean

export: $(STAMP)
	@# exit code 3: a precision was rejected, with its numbers in the table; the bundle is usable
	$(BIN)/mirnet-export --fp16 --int8 --out build/lowlight || [ $$? -eq 3 ]
	$(BIN)/python benchmarks/demo.py build/lowlight build
	$(BIN)/mirnet-restore build/dark.png --bundle build/lowlight --out build/enhanced --compare --overwrite

test: $(STAMP)
	@# by file, in our order: what the tests of one share is made once, and the longest begins
	@# one thread each: more of them than cores wait for each other
	@# many tests watch clocks, threads and memory: one that fails on a loaded machine is run once
	@# more, and listed; pytest alone does not, so that a race is seen where it is worked on
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder --reruns 1 -rR

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	@# strict: a link without a target, or a name without a docstring, is an error
	$(BIN)/mkdocs build --strict --quiet

wheel: $(STAMP)
	@# setuptools packs again what an earlier build left in build/lib
	rm -rf build/lib build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel .

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf build .venv
