# Everything a fresh machine needs is Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
JOBS ?= 2

.PHONY: help install check test demo bench bench-peers clean
help:
	@echo "make demo         set up, then find the metastases of a simulated patient"
	@echo "make test         set up, then every check"
	@echo "make install      .venv with every extra"
	@echo "make check        the quick gates: format, lint, types, quick tests"
	@echo "make bench        the benchmarks; make bench-peers: those of other packages"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/brainmets demo -o demo-out

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(JOBS) --cov --cov-report=term:skip-covered --cov-fail-under=90

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(JOBS) -m "slow or not slow" --durations=15 \
		--cov --cov-report=term:skip-covered --cov-fail-under=90

GATE := .bench/gate-$(if $(BRAINMETS_DATA),maps,head)/cohort.tsv
GATE_HEADS := $(if $(BRAINMETS_DATA),$(foreach n,17 18 19 20,\
	--anatomy $(BRAINMETS_DATA)/anatomy/training_seg_$(n).nii.gz))
$(GATE): | install
	$(BIN)/brainmets simulate $(dir $@) --cases 100 --seed 2640 --workers 2 $(GATE_HEADS)

bench: install $(GATE)
	$(BIN)/python benchmarks/predict.py
	$(BIN)/python benchmarks/predict.py --avx2 --runs 1
	$(BIN)/python benchmarks/sizes.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/training_step.py --side 96 --runs 1
	$(BIN)/python benchmarks/loss_gate.py --cohort $(GATE)
	$(BIN)/python benchmarks/tiles.py --cohort $(GATE) --cases 24
	$(BIN)/python benchmarks/dicom.py
	if [ -n "$$BRAINMETS_DATA" ]; then $(BIN)/python benchmarks/scores.py; fi
	$(BIN)/python benchmarks/tables.py

# Other packages live in environments of their own: some hold numpy, pandas or rich back.
PEERS := .venv-monai/.installed .venv-panoptica/.installed .venv-surface-distance/.installed \
	.venv-batchgenerators/.installed .venv-nnunet/.installed

bench-peers: install $(PEERS)
	$(BIN)/python benchmarks/peers/undefined.py
	$(BIN)/python benchmarks/peers/compare.py
	$(BIN)/python benchmarks/peers/augmentation.py
	if [ -n "$$BRAINMETS_DATA" ]; then $(BIN)/python benchmarks/peers/whole_patient.py --runs 1; fi
	$(BIN)/python benchmarks/tables.py

.venv-%/.installed: benchmarks/peers/requirements-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	if [ -f benchmarks/peers/$*-itself.txt ]; then .venv-$*/bin/python -m pip \
		--disable-pip-version-check install --quiet --no-deps -r benchmarks/peers/$*-itself.txt; fi
	touch $@

clean:
	rm -rf $(VENV) .venv-* demo-out dist build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
