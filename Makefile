# `make demo` and `make test` need git, make and Python 3.11+ with its venv module, nothing else.

PYTHON ?= python3
BIN := .venv/bin
VIDEO ?= deployments/demo/bunny_320x180.mp4
RESOLUTION ?= 720p
MODEL ?= auto
BENCH_MODEL ?= tiny
PYTEST = $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
CODE := flows tasks seedvr2_core deployments seedvr2 benchmarks tests docs requirements

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-long test-fast soak test-apt check fix lock audit sbom docs site bench gpu-bench image pools \
        deploy new-clone new-clone-check clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

# Exact versions, and only files whose sha256 is known. PyPI has torch's CUDA builds alone; where pip
# is set up with a place that has the CPU build, that one is taken (about 3 GB less).
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes

.venv/.installed: pyproject.toml $(wildcard requirements/*.lock)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements/base.lock -r requirements/dev.lock
	$(PIP) -r requirements/cpu.lock 2>/dev/null || $(PIP) -r requirements/cuda.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The values go through the environment as they were written: make does not expand a dollar in them,
# and the shell sees no quotes. A name that begins with a dash is no option.
demo: export DEMO_VIDEO = $(value VIDEO)
demo: export DEMO_RESOLUTION = $(value RESOLUTION)
demo: export DEMO_MODEL = $(value MODEL)
demo: .venv/.installed ## upscale the bundled clip (VIDEO=... RESOLUTION=... for your own)
	@$(BIN)/seedvr2 upscale --resolution="$$DEMO_RESOLUTION" --model="$$DEMO_MODEL" --work-dir demo-output -- "$$DEMO_VIDEO"

serve: .venv/.installed ## server, workers, gateway and edge on this machine, until Ctrl-C
	@$(BIN)/seedvr2 serve

test: .venv/.installed ## tests that need pip alone (ten minutes on 2 cores)
	$(PYTEST) -m 'not long and not soak and not apt and not gpu'

test-long: .venv/.installed ## what `make test` leaves out for its length; CI runs both
	$(PYTEST) -m 'long and not soak and not apt and not gpu'

test-fast: .venv/.installed ## the quick ones
	$(PYTEST) -m 'not slow and not long and not soak and not apt and not gpu'

soak: .venv/.installed ## kills, memory, outages, many jobs
	$(BIN)/python -m pytest -m soak --timeout 3600

test-apt: .venv/.installed ## tests that need Debian packages
	$(BIN)/python -m pytest -m apt --timeout 900

check: .venv/.installed ## format, lint, types, import contracts
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/pyright
	$(BIN)/lint-imports

fix: .venv/.installed ## format and apply safe lint fixes
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lock: .venv/.installed ## write requirements/*.lock anew from pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@$(BIN)/python requirements/write.py

audit: .venv/.installed ## ask PyPI which locked packages have known vulnerabilities
	@$(BIN)/python requirements/reachable.py
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9'
	@cat requirements/base.lock requirements/dev.lock requirements/cuda.lock > .venv/audited.txt
	@$(BIN)/pip-audit --require-hashes --disable-pip --requirement .venv/audited.txt

# The tool has an environment of its own, so that it does not list itself.
sbom: .venv/.installed ## write sbom.cdx.json: what is installed here, with versions and licences
	@$(PYTHON) -m venv --clear .venv/sbom
	@.venv/sbom/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/sbom.lock
	@.venv/sbom/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file sbom.cdx.json $(BIN)/python

docs: .venv/.installed ## write the pages that come from the code (options, settings, errors, ...)
	@$(BIN)/python docs/generate.py

# Neither `make demo` nor `make test` needs it: the tool has an environment of its own.
site: ## build the pages as a site in site/; a link that leads nowhere fails
	@$(PYTHON) -m venv --clear .venv/site
	@.venv/site/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/docs.lock
	@.venv/site/bin/zensical build --clean --strict
	@$(PYTHON) docs/check_links.py site

bench: .venv/.installed ## speed and memory against named references (BENCH_MODEL=7b on a GPU)
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python -m benchmarks.media.cuts
	$(BIN)/python -m benchmarks.media.cuts_on_cores
	$(BIN)/python -m benchmarks.media.fields
	$(BIN)/python benchmarks/bursts.py
	$(BIN)/python benchmarks/upload.py
	$(BIN)/python benchmarks/stitch.py
	$(BIN)/python -m benchmarks.model --model $(BENCH_MODEL)

# On a bare machine: no environment of ours is made or used.
gpu-bench: ## all that a GPU has to say; needs torch, numpy, safetensors, Triton (LONG=1: 4k as well)
	$(PYTHON) -m benchmarks.gpu $(if $(LONG),--long)

image: ## build the image of this commit, seedvr2:<commit> (needs Docker; BASE_IMAGE=... for another base)
	docker build $(if $(BASE_IMAGE),--build-arg BASE_IMAGE='$(BASE_IMAGE)') --file deployments/docker/Dockerfile --tag seedvr2:$$(git describe --always --dirty --abbrev=12 --exclude '*') .

pools: .venv/.installed ## create or update the work pools on PREFECT_API_URL
	@$(BIN)/python -P -m deployments.deploy pools

deploy: .venv/.installed ## pools, deployments and automations on PREFECT_API_URL (idempotent)
	@$(BIN)/python -P -m deployments.deploy deploy

# What a newcomer does: clone, make demo, make test. Only what is committed takes part. The folder is
# removed at the end, also after a failure. SEEDVR2_SHARED becomes absolute: the clone lies elsewhere.
new-clone-check: ## clone HEAD into a temporary folder, run make demo and make test there (slow)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && trap 'exit 130' INT TERM && \
	$(call clone_into,$$folder/clone) && \
	make -C "$$folder/clone" PYTHON='$(PYTHON)' demo && \
	make -C "$$folder/clone" PYTHON='$(PYTHON)' $(if $(SEEDVR2_SHARED),SEEDVR2_SHARED='$(abspath $(SEEDVR2_SHARED))') test

new-clone: ## clone HEAD into the folder TO=..., the first step of new-clone-check
	@test -n '$(TO)' || { echo 'say where: make new-clone TO=/tmp/clone' >&2; exit 2; }
	$(call clone_into,$(TO))

clone_into = git clone --quiet --no-hardlinks . "$(1)" && \
	git -C "$(1)" checkout --quiet --detach "$$(git rev-parse HEAD)"

clean: ## remove what the targets made
	rm -rf .venv site sbom.cdx.json demo-output .pytest_cache .ruff_cache .import_linter_cache
