# On a fresh Debian machine with Python and make, each target does all the set-up it needs.
VENV := .venv
BIN := $(VENV)/bin
SETUP := tests/setup
# More workers than cores, since tests wait for servers and renewals much of their time; fewer where each may start a
# cluster. Not sorted by the number of their tests, which would leave the longest files, of few tests, to the end.
PARALLEL := --dist loadfile --no-loadscope-reorder
# Every worker imports every test, which pytest rewrites first: three times the seconds, unless what was made is kept.
unexport PYTHONDONTWRITEBYTECODE
SITE := $(BIN)/zensical build --strict --clean && $(BIN)/python docs/site_links.py site

.PHONY: venv demo test near mutants check docs conformance kubernetes lifecycle exhaustive bench compare soak soak-adoption soak-keys soak-rotations soak-operators dist release lock clean

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

# All tests are rewritten once, and later those that have changed, not once for each worker. The run itself names those that
# cannot be collected.
TESTED := --ignore=tests/conformance
.cache/rewritten: $(VENV)/.dev $(wildcard tests/*/test_*.py tests/*/*/test_*.py)
	mkdir -p .cache
	$(BIN)/python -m pytest --collect-only -qq $(if $(filter $(VENV)/.dev,$?),$(TESTED),$?) >.cache/collected 2>&1 || true
	touch $@

test: $(VENV)/.dev .cache/rewritten
	$(SETUP)/packages
	$(SETUP)/with-docker $(BIN)/python $(BIN)/python -m pytest $(TESTED) -m "not (conformance or exhaustive)" -n 6 $(PARALLEL) $(PYTEST)

# Only the tests that can reach what has changed since SINCE, by default where this branch left main. No proof of a change.
near: $(VENV)/.dev
	files=$$($(BIN)/python $(SETUP)/near $(SINCE)) && \
	if [ -n "$$files" ]; then $(MAKE) --no-print-directory test PYTEST="$$files $(PYTEST)"; fi

# How sharp the tests are (tests/MUTANTS.md): COUNT mutants that SEED draws, of one ROOM or all that decide; LEVEL=unit takes
# no test with a server. An hour or more of both cores, of what is committed; it goes on where it was interrupted.
mutants: $(VENV)/.dev
	$(SETUP)/packages
	PYTHONPATH=tests $(BIN)/python -m mutants --seed $(or $(SEED),39) --count $(or $(COUNT),300) --level $(or $(LEVEL),all) \
		$(and $(ROOM),--room $(ROOM)) $(and $(COMMIT),--commit $(COMMIT))

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(SITE)

# The parts that follow from the code are written anew first; tests/docs fails while they are not.
docs: $(VENV)/.dev
	$(BIN)/python docs/reference.py
	$(SITE)
	@echo "The pages are in site/index.html."

# The real HashiCorp Vault, etcd and Kubernetes, built from the Go module proxy. What of the integration suite depends most
# on its server runs on that Vault; the files of both servers go before independent checkers and under real clusters,
# which only root can make.
# Three rows of clusters at a time, since each cluster has time limits of its own: CAs and service-account keys under load,
# leaves under load, and kubeadm's.
ROTATIONS := tests/conformance/ca/test_kube_rotations.py
ROTATION := tests/conformance/agent/test_kube_rotation.py
# etcd's CA on kubeadm's three control planes under load, which is no part of `conformance`.
KUBEADM_CA_ROTATION := tests/conformance/kubeadm/test_kubeadm_ca_rotation.py
# A cluster of kubeadm's own CAs is adopted, to the end and back: one of three control planes under load, and the smallest
# one. They are no part of `conformance`.
ADOPTION := tests/conformance/kubeadm/test_kubeadm_adoption.py
SMALL_ADOPTION := tests/conformance/kubeadm/test_kubeadm_adoption_small.py
# The life of a CA at its full length: the page's whole session, and a cut after every write.
CA_PAGE := tests/conformance/ca/test_ca_page.py
CA_CUTS := $(addprefix tests/integration/ca/test_,rotation_killed.py root_rotation_killed.py root_move_killed.py)
# What is run with each version of Kubernetes beside the files of STANDING (docs/versions.md): one rotation, which is no part of
# `conformance`, and kubeadm's configuration and clusters.
ONE_ROTATION := tests/conformance/ca/test_kube_ca_by_version.py
KUBEADM := tests/conformance/kubeadm/test_kubeadm_cluster.py
KUBEADM_SHAPES := $(addprefix tests/conformance/kubeadm/test_,kubeadm_shapes.py kubeadm_config.py kube_adopt_inventory.py)
# All but what `test` has had whole: what needs no server, what is the node's own doing whatever server there is, and
# samples of what is done in full here.
ON_VAULT := conformance or not (serverless or on_node or sample or exhaustive)
# Where the answer of a server decides: what is applied, identities and their ends, what is signed, each way to log in, and
# a life of each CA. `exhaustive` has all other files on that Vault.
INTEGRATION := $(wildcard tests/integration/test_*.py tests/integration/*/test_*.py)
BY_SERVER := $(filter $(foreach room,identity issue node provision vault,tests/integration/$(room)/%),$(INTEGRATION)) \
	$(addprefix tests/integration/,test_secrets.py move/test_move_kinds.py adopt/test_adoption.py cli/test_operators_tokens.py cli/test_next_commands.py \
	$(addprefix agent/test_,first_pass.py join.py jwt.py jwt_applied.py renew.py rotation.py token_keys.py) \
	$(addprefix ca/test_,outside_import.py recover.py root_rotation.py rotation.py service_account_keys.py))
# Files that ask the same clusters: one process starts each of them once.
STANDING := $(addprefix tests/conformance/,live/test_live.py live/test_kube_root_copies.py verify/test_kube_allowed.py \
	verify/test_kube_denied.py verify/test_kube_settings_in_files.py verify/test_kube_stolen_node.py)
# A cluster that grows, one with the image, and servers with faults: they too have time limits, so they run beside clusters' files.
PROMPT := $(addprefix tests/conformance/,provision/test_kube_growing.py packages/test_image.py vault/test_polls_under_faults.py)
# A node that joined by a token lives through rotations of three CAs, the root's too, which is no part of `conformance`.
JOINED_ROTATIONS := tests/conformance/signer/test_kube_joined_rotations.py
# A cluster that moves to another server, there and back and to the end.
MOVE := tests/conformance/move/test_kube_move.py
# All others in one run, so that no worker waits for the end of a stage; the longest files first, so that none runs alone in
# the end. Where a file needs no server, it has to stand before one that does, or pytest takes all that need it before.
CONFORMANCE := $(wildcard tests/conformance/test_*.py tests/conformance/*/test_*.py)
FLEET_YEAR := tests/models/test_fleet_year.py
FIRST := $(addprefix tests/,models/test_models.py \
	$(addprefix conformance/,packages/test_debian_upgrade.py pages/test_site_in_browser.py \
	show/test_report_in_browser.py packages/test_install_page.py packages/test_wheel.py packages/test_bills.py \
	graph/test_pictures.py) integration/identity/test_least_privilege.py)
OTHERS := $(filter-out $(FLEET_YEAR),$(wildcard tests/models/test_*.py)) $(wildcard tests/docs/test_*.py) $(BY_SERVER)
OTHERS := $(FIRST) $(filter-out $(FIRST) $(STANDING) $(PROMPT) $(JOINED_ROTATIONS) $(MOVE) $(KUBEADM) $(KUBEADM_SHAPES) $(ROTATIONS) \
	$(ROTATION) $(KUBEADM_CA_ROTATION) $(ADOPTION) $(SMALL_ADOPTION) $(CA_PAGE) $(CA_CUTS) $(ONE_ROTATION),$(CONFORMANCE) $(OTHERS))

# Builds the programs, and names them in the variable `given` of the same shell.
VAULT = vault=$$($(SETUP)/go-build tests/conformance/vault 6 vault=github.com/hashicorp/vault)
ETCD = etcd=$$($(SETUP)/go-build tests/conformance/etcd 1 \
	etcd=go.etcd.io/etcd/server/v3 etcdctl=go.etcd.io/etcd/etcdctl/v3)
# `make conformance` has a Kubernetes whose clients look at their files every 15 seconds, and runs the product as one that
# counts on that: it has no such setting, so tests change its one constant from outside.
BUILD = $(VAULT) && \
	zlint=$$($(SETUP)/go-build tests/conformance/zlint 1 zlint=github.com/zmap/zlint/v3/cmd/zlint) && \
	$(ETCD) && \
	vip=$$(CGO_ENABLED=0 $(SETUP)/go-build tests/conformance/kube-vip 2 kube-vip=github.com/kube-vip/kube-vip) && \
	kubernetes=$$($(SETUP)/kubernetes $(QUICK)) && \
	given="--vault-binary $$vault/vault --zlint $$zlint/zlint --kube-vip $$vip/kube-vip --etcd $$etcd --kubernetes $$kubernetes"
COUNTS_ON_QUICK := PYTHONPATH=$(CURDIR)/tests/helpers/kube/quick $(BIN)/python -m pytest
# The models of rotations and of a move are among the others, what `test` leaves of them: some three minutes of one core.
conformance: QUICK := quick
conformance: $(VENV)/.dev
	$(SETUP)/packages conformance
	$(BUILD) && before=$$($(SETUP)/kubernetes before quick) && given="$$given --kubernetes-before $$before" && \
	both="--server vault --also bao $$given" && \
	$(SETUP)/beside "$(COUNTS_ON_QUICK) $(ROTATIONS) --standing \$$READY --timeout 4500 $$given $(PYTEST) && \
		$(COUNTS_ON_QUICK) $(STANDING) --timeout 1800 $$given $(PYTEST)" \
		"$(COUNTS_ON_QUICK) $(ROTATION) --standing \$$READY --timeout 3600 $$given $(PYTEST) && \
		$(COUNTS_ON_QUICK) $(PROMPT) $(KUBEADM_SHAPES) --timeout 1800 $$both $(PYTEST)" \
		"touch \$$READY && $(COUNTS_ON_QUICK) $(KUBEADM) --timeout 4500 $$both $(PYTEST)" \
		"$(SETUP)/yielding $(BIN)/python -m pytest $(OTHERS) -m '$(ON_VAULT)' --timeout 1800 -n 4 $(PARALLEL) $$both $(PYTEST)"

# What docs/versions.md tells of one version of Kubernetes, half an hour once it is built: `make kubernetes VERSION=1.35`.
# Through OpenBao alone: `conformance` has HashiCorp Vault. The figures go into tests/conformance/RESULTS.md.
kubernetes: $(VENV)/.dev
	$(SETUP)/packages conformance
	$(ETCD) && kubernetes=$$($(SETUP)/kubernetes $(VERSION)) && given="--etcd $$etcd --kubernetes $$kubernetes" && \
	$(SETUP)/beside "$(BIN)/python -m pytest $(ONE_ROTATION) -s --standing \$$READY --timeout 3000 $$given $(PYTEST)" \
		"$(BIN)/python -m pytest $(STANDING) --timeout 900 $$given $(PYTEST) && \
		$(BIN)/python -m pytest $(KUBEADM) $(KUBEADM_SHAPES) --timeout 2700 -n 2 $(PARALLEL) $$given $(PYTEST)"

# Five hours, with Kubernetes as it is: what `conformance` rotates and renews with quick clients; the life of CAs, etcd's
# on kubeadm's three control planes, and adoptions of kubeadm's clusters there, back and to the end.
lifecycle: $(VENV)/.dev
	$(SETUP)/packages conformance
	$(BUILD) && \
	$(BIN)/python -m pytest $(ROTATIONS) $(ROTATION) $(KUBEADM_CA_ROTATION) $(JOINED_ROTATIONS) $(MOVE) $(SMALL_ADOPTION) $(ADOPTION) --timeout 7200 \
		$$given $(PYTEST) && \
	$(BIN)/python -m pytest $(CA_PAGE) $(CA_CUTS) -m conformance --timeout 3000 -n 4 --server bao --server vault $$given $(PYTEST)

# An hour and more: what `test` and `conformance` take in part, above all agents that are killed, or whose calls fail, at
# every single call by which a pass changes its node; what a server may do to it, on both servers. Last, properties with
# some hundred examples each, the models of a move that take minutes, a fleet's year, and the files of the integration suite
# that `conformance` leaves to HashiCorp Vault.
exhaustive: $(VENV)/.dev
	$(SETUP)/packages
	$(VAULT) && \
	$(BIN)/python -m pytest $(filter-out $(BY_SERVER) $(CA_CUTS),$(INTEGRATION)) $(FLEET_YEAR) -m '$(ON_VAULT)' --timeout 3000 -n 4 \
		--server vault --also bao --vault-binary $$vault/vault $(PYTEST) && \
	$(BIN)/python -m pytest tests/integration -m exhaustive --timeout 3000 -n 4 --server bao --server vault \
		--vault-binary $$vault/vault $(PYTEST)
	$(BIN)/python -m pytest tests/property -m conformance --timeout 3000 -n 2 $(PYTEST)
	$(BIN)/python -m pytest tests/models -m exhaustive --timeout 3000 -n 2 $(PYTEST)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(BENCH)

# What two checkouts do, request by request, file by file and word by word: `make compare BEFORE=main`, a folder or a git
# ref each. COMPARE="--only ca --only root/retired" plays these lives, "--server vault --vault-binary PATH" takes HashiCorp Vault.
compare: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m compare $(BEFORE) $(or $(AFTER),.) $(COMPARE)

# SOAK_HOURS (2 by default) of renewals while servers and agents are killed, sealed and frozen.
soak: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m soak

# Two hours and more of adoptions of kubeadm's clusters under load: aborts from every state, joins in every state, other shapes,
# three control planes to the end, their first rotations, and control runs that must fail. SOAK="abort-switched control-token" takes these
# alone, SOAK="--server vault whole" HashiCorp Vault.
soak-adoption: $(VENV)/.dev
	$(SETUP)/packages conformance
	$(BUILD) && PYTHONPATH=tests $(BIN)/python -m soak.adoption $$given $(SOAK)

# Two hours and more on each server in turn of rotations of service-account keys on three control planes under load: an abort
# from each state, nodes that join, leave and are killed, stolen keys, from one shared `sa.key` to own ones, and control
# runs that must fail. SOAK="--server bao rotation control-loaded control-life" takes one server and these phases alone.
soak-keys: $(VENV)/.dev
	$(SETUP)/packages conformance
	$(BUILD) && PYTHONPATH=tests $(BIN)/python -m soak.keys $$given $(SOAK)

# Hours of CA rotations, aborts and an emergency in real clusters under load, on both servers in turn; the machine should
# have nothing else to do. SOAK="--server bao etcd emergency" takes one server and these phases alone; those that begin
# with `kubeadm-` are of three control planes that kubeadm made.
soak-rotations: $(VENV)/.dev
	$(SETUP)/packages conformance
	$(BUILD) && PYTHONPATH=tests $(BIN)/python -m soak.rotations $$given $(SOAK)

# SOAK_HOURS (2 by default) on each server of CA rotations by two operators at once, who are killed at any moment.
# SOAK="--server bao" takes one server, SOAK="--liars" one cluster of forty nodes of which five lie, SOAK_SEED the same
# chances once more.
soak-operators: $(VENV)/.dev
	$(SETUP)/packages conformance
	$(VAULT) && PYTHONPATH=tests $(BIN)/python -m soak.operators --vault-binary $$vault/vault $(SOAK)

# All that is given to users, each checked or built from what was checked; docs/install.md tells what each file is for.
# SIGN=KEY signs the hashes with a key of gpg.
dist: $(VENV)/.dev
	$(SETUP)/packages dockerd
	$(SETUP)/packages mmdebstrap
	packages/wheel dist
	packages/deb dist amd64
	packages/deb dist arm64
	$(SETUP)/with-docker $(BIN)/python packages/image dist
	packages/sums dist $(SIGN)
	@echo "The packages are in dist/."

# Two commits: the release of the version in work, and the begin of the next one (NEXT=1.0.0, by default the next minor).
release:
	packages/release $(NEXT)

# The versions and hashes that packages bring, on every platform and Python, as of today.
lock: $(VENV)/.dev
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --python-version 3.11 \
		--output-file packages/requirements.txt pyproject.toml

clean:
	rm -rf $(VENV) site .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
