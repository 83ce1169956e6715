# make demo    set up if needed, then train a small video generator and write its report
# make test    set up if needed, then run all tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Another package index for torch, for example https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PRESET ?= demo
VIDEOS ?=
NAME ?=
STORAGE ?= runs
# As they are given, in the environment: whatever a path holds, neither make nor the shell reads it.
override export PRESET := $(value PRESET)
override export VIDEOS := $(value VIDEOS)
override export NAME := $(value NAME)
override export STORAGE := $(value STORAGE)

.PHONY: setup demo test lint lock soak

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "setting up $(VENV): gigabytes of packages, once"
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet -c constraints.txt --no-deps --index-url $(TORCH_INDEX) torch)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m jobs.pipeline --preset "$$PRESET" --storage "$$STORAGE" $(if $(NAME),--name "$$NAME") \
		$(if $(VIDEOS),--videos "$$VIDEOS")

# Unit tests in several processes, a file in one; then those that have a server, a browser or a cluster to themselves. The second part
# runs after failures too. PYTEST_ADDOPTS may select tests of one part alone: pytest then ends with 5 for the other.
test: setup
	@run() { $(BIN)/python -m pytest "$$@"; case $$? in 0) passed=1;; 1) failed=1;; 5) ;; *) exit 1;; esac; }; \
	run --numprocesses logical --maxprocesses 4 --dist loadfile tests/unit; \
	run tests/s3 tests/browser tests/ray; \
	test -n "$$passed" -a -z "$$failed"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pin every version anew, those in constraints.txt first; `make lock UPGRADE=--upgrade` takes the newest instead.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --disable-pip-version-check uv
	$(VENV)-lock/bin/uv pip compile --quiet pyproject.toml --extra dev --python-version 3.11 \
		--no-header --no-annotate $(UPGRADE) --output-file constraints.txt
	rm -rf $(VENV)-lock

# What takes longer than a test may: a short run killed at a moment of every stage.
soak: setup
	$(BIN)/python -m pytest tests/soak
