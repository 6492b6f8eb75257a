# On a fresh Debian machine with Python and make, each target does all the set-up it needs.
VENV := .venv
BIN := $(VENV)/bin
SETUP := tests/setup
# Four on two cores, since tests wait for servers much of their time. Not sorted by the number of their tests, which
# would leave the longest files, of few tests, to the end.
PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: venv demo test check conformance bench soak clean

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
	$(SETUP)/with-docker $(BIN)/python $(BIN)/python -m pytest -m "not conformance" $(PARALLEL) $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The real HashiCorp Vault, etcd and Kubernetes, built from the Go module proxy. The whole integration suite runs on that
# Vault; then the files of both servers go before independent checkers and under real clusters, which only root can make.
K := k8s.io/kubernetes/cmd
KUBERNETES := $(foreach name,kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl,$(name)=$(K)/$(name))
# kubectl parses the version it was built as.
KUBERNETES_VERSION := -X k8s.io/component-base/version.gitVersion=v1.36.3 \
	-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36
# A quarter of an hour in which hardly anything is to be done, so it runs beside all others once its cluster stands.
ROTATION := tests/conformance/test_kube_rotation.py
# All but what `test` has had whole: what needs no server, and samples of what is done in full here.
ON_VAULT := conformance or not (serverless or sample)

conformance: $(VENV)/.dev
	$(SETUP)/packages conformance
	vault=$$($(SETUP)/go-build tests/conformance/vault 6 vault=github.com/hashicorp/vault) && \
	zlint=$$($(SETUP)/go-build tests/conformance/zlint 1 zlint=github.com/zmap/zlint/v3/cmd/zlint) && \
	etcd=$$($(SETUP)/go-build tests/conformance/etcd 1 \
		etcd=go.etcd.io/etcd/server/v3 etcdctl=go.etcd.io/etcd/etcdctl/v3) && \
	kubernetes=$$($(SETUP)/go-build tests/conformance/kubernetes 6 $(KUBERNETES) -ldflags "-s -w $(KUBERNETES_VERSION)") && \
	given="--vault-binary $$vault/vault --zlint $$zlint/zlint --etcd $$etcd --kubernetes $$kubernetes" && \
	$(SETUP)/beside "$(BIN)/python -m pytest $(ROTATION) --standing \$$READY --timeout 1800 $$given $(PYTEST)" \
		"$(BIN)/python -m pytest tests/integration -m '$(ON_VAULT)' --timeout 900 $(PARALLEL) --server vault $$given $(PYTEST) && \
		$(BIN)/python -m pytest tests/conformance --timeout 900 $(PARALLEL) --ignore=$(ROTATION) --server bao --server vault $$given $(PYTEST)"

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(BENCH)

# SOAK_HOURS (2 by default) of renewals while servers and agents are killed, sealed and frozen.
soak: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m soak

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
