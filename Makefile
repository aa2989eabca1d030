# make pretrain    set up and run the main job: meshes -> views -> teacher -> student -> zero-shot table
# make test        set up and run all tests
# make drills      rehearse failures on a real Slurm and a real Ray on this machine: requeue, preemption, sick nodes, a power failure (minutes)
# make check       types, style, import contracts
SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
JOBS   ?= 2
BIN    := $(VENV)/bin

.PHONY: pretrain furniture test drills check format clean

pretrain: $(VENV)/ready
	$(BIN)/mrdist train smoke

furniture: $(VENV)/ready
	$(BIN)/mrdist train furniture

test: $(VENV)/ready-to-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(JOBS) --dist loadfile

drills: $(VENV)/ready-to-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slurm tests/cluster -m "drill or not drill" -rP --durations=0

check: $(VENV)/ready-to-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --config setup.cfg

format: $(VENV)/ready-to-test
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/ready: setup.cfg constraints.txt install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" ./install.sh .
	touch $@

$(VENV)/ready-to-test: setup.cfg constraints.txt install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" ./install.sh '.[test]'
	touch $(VENV)/ready $@
