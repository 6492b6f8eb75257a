# On a fresh Debian machine with Python and make, each target does all the set-up it needs.
VENV := .venv
BIN := $(VENV)/bin
SETUP := tests/setup

.PHONY: venv demo test check conformance bench clean

venv: $(VENV)/.dev

# Two stamps: the demo needs no test tools, which take longest to install.
$(VENV)/.embedded: pyproject.toml $(SETUP)/venv
	$(SETUP)/venv $(VENV) embedded
	touch $@

$(VENV)/.dev: pyproject.toml $(SETUP)/venv
	$(SETUP)/venv $(VENV) embedded,dev
	touch $(VENV)/.embedded $@

demo: $(VENV)/.embedded
	$(SETUP)/packages openssl
	$(BIN)/vaultpki demo $(DEMO)

test: $(VENV)/.dev
	$(SETUP)/packages
	$(SETUP)/with-docker $(BIN)/python $(BIN)/python -m pytest -m "not conformance" -n 2 --dist loadfile $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The real HashiCorp Vault, built from the Go module proxy; the whole integration suite runs on it. Then the files of
# both servers go before independent checkers.
conformance: $(VENV)/.dev
	$(SETUP)/packages
	vault=$$($(SETUP)/go-build tests/conformance/vault vault 6 github.com/hashicorp/vault) && \
	zlint=$$($(SETUP)/go-build tests/conformance/zlint zlint 1 github.com/zmap/zlint/v3/cmd/zlint) && \
	$(BIN)/python -m pytest tests/integration --server vault --vault-binary "$$vault" $(PYTEST) && \
	$(BIN)/python -m pytest tests/conformance --server bao --server vault --vault-binary "$$vault" --zlint "$$zlint" $(PYTEST)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
