# Everything one does with this repository; needs Python 3.11 or newer with venv and pip. Plain `make` lists it.

PYTHON ?= python3
PORT ?= 8000

BIN := .venv/bin
SITE := _build/html

# Jupyter, IPython and Matplotlib keep their files here: the home folder stays clean, and its settings out of the book.
export JUPYTER_CONFIG_DIR := $(CURDIR)/build/home/jupyter
export JUPYTER_DATA_DIR := $(CURDIR)/build/home/jupyter
export IPYTHONDIR := $(CURDIR)/build/home/ipython
export MPLCONFIGDIR := $(CURDIR)/build/home/matplotlib
export PYTHONUNBUFFERED := 1

.PHONY: help book serve zip lab notebooks student solutions test check bench experiments claims picture lock clean distclean

help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo 'PYTHON=python3.12 chooses the Python to set up with, PORT=8080 where to serve.'

# Set up again only when what is to be installed has changed.
.venv/.ready: requirements.lock pyproject.toml
	@tools/setup.sh $(PYTHON)

# What the chapters computed is kept until their code, the package or the lock changes. Only pages that have changed are
# read anew, or all where that is not safe (book/_ext/scb_book.py). The last line of the pipe is the status.
book: .venv/.ready ## build the site: every chapter executed, every warning an error
	@echo 'Building the book; chapters that have to be executed:'
	@{ $(BIN)/jupyter-book build . --path-output . -W -n --keep-going; echo "status $$?"; } | \
	  awk -F ': Executed notebook in | seconds' \
	    'NF > 2 { sub(/.*\//, "", $$1); print "  " $$1, $$2, "s" } /^site: / { print "  " $$0 } \
	    sub(/^status /, "") { status = $$0 } END { exit status }'
	@$(BIN)/python -c 'from pathlib import Path; print("Open", Path("$(SITE)/index.html").resolve().as_uri())'

serve: book ## build the site and serve it to this machine (PORT=8000)
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE)

zip: book ## pack the site for reading offline, from a disk: build/how-a-transformer-learns.zip
	@$(BIN)/python tools/zip_site.py

lab: .venv/.ready ## open the chapters as notebooks in JupyterLab, on copies in build/lab (LAB=--no-browser passes options on)
	@$(BIN)/python tools/notebooks.py $@
	@$(BIN)/jupyter-lab --notebook-dir build/lab $(LAB)

notebooks: book ## write notebooks/, which Colab and Binder open: after every change of a chapter
	@$(BIN)/python tools/notebooks.py $@

student: book ## write such notebooks without solutions into build/student
	@$(BIN)/python tools/notebooks.py $@

solutions: book ## the same with solutions, into build/solutions
	@$(BIN)/python tools/notebooks.py $@

test: .venv/.ready ## check style and types, run the tests, run every chapter as a notebook
	@echo 'Checking style and types ...'
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@echo 'Running the tests ...'
	@$(BIN)/python -m pytest -n 2 tests --ignore tests/browser --doctest-modules scb_nb
	@echo 'Running the chapters ...'
	@$(BIN)/python tools/run_notebooks.py

check: test ## everything: the tests, a build from nothing, the site in a browser
	@rm -rf _build
	@$(MAKE) --no-print-directory book
	@echo 'Building it again, from what was kept: every file must be the same ...'
	@rm -rf build/cold _build/.doctrees
	@cp -R $(SITE) build/cold
	@$(MAKE) --no-print-directory book
	@diff --recursive --brief build/cold $(SITE)
	@$(BIN)/python tools/zip_site.py
	@echo 'Checking the site in a browser ...'
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/browser

bench: .venv/.ready ## time what should be fast
	@$(BIN)/python benchmarks/bench.py

experiments: .venv/.ready ## do the long runs that the book reports and that are not kept yet (some three hours for all, on two cores)
	@for name in bar stage_one ablation limits rivals price transfer support links probes layer complexity; do $(BIN)/python -m experiments.$$name || exit 1; done

claims: .venv/.ready ## print what is claimed and what was measured; fails where results are out of date
	@$(BIN)/python -m experiments.claims

picture: .venv/.ready ## draw the landing page's figure for the README
	@$(BIN)/python tools/draw_picture.py

# Left out: pip itself, what only some platforms need, and which build of torch (+cpu, +cu130), the user's own choice.
lock: ## write what .venv holds into requirements.lock
	@$(BIN)/pip list --format=freeze --exclude-editable --exclude pip > .venv/packages
	@{ grep '^#' requirements.lock; sed -E '/^(cuda|nvidia|triton)/d; s/[+].*//' .venv/packages; } > .venv/lock
	@mv .venv/lock requirements.lock
	@echo 'Wrote requirements.lock'

clean: ## remove what builds and tests made
	@rm -rf _build build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	@rm -rf .venv
