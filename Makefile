# HotMesh. On a fresh machine with git, make and Python 3.10+: `make demo`, `make test`.
# `make install` needs no Python: the scripts in extension/ are built and committed.

PYTHON ?= python3
PG_CONFIG ?= pg_config
CHORE = $(PYTHON) python_driver/bootstrap.py

# PGXS owns the name VERSION.
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" hotmesh.control)
EXTENSION = hotmesh
DATA = $(wildcard extension/hotmesh--*.sql)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build install uninstall setup test lint format demo bench up clean

help:
	@echo 'HotMesh $(EXTVERSION)'
	@echo '  make demo         a few hundred orders, a worker killed in the middle, the proof'
	@echo '  make test         linters and all tests;  make test-sql: only tests/sql'
	@echo '  make lint format  the linters;  lay out the Python code'
	@echo '  make bench        measure, next to the floor'
	@echo '  make up           the embedded Postgres, in the foreground'
	@echo '  make setup        only .venv, which every other target makes by itself'
	@echo '  make build        extension/*.sql from sql/*.sql'
	@echo '  make install      the extension into the Postgres of PG_CONFIG=$(PG_CONFIG),'
	@echo '                    or into a directory: make install EXTDIR=/usr/share/postgresql/17/extension'
	@echo '  make uninstall    take it out again'
	@echo '  make clean        remove .venv and caches'

build:
	$(PYTHON) extension/build.py

setup test lint format demo bench up:
	@$(CHORE) $@ $(ARGS)

test-%:
	@$(CHORE) test tests/$* $(ARGS)

ifneq ($(filter install uninstall installcheck,$(MAKECMDGOALS)),)
ifndef EXTDIR
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
endif
endif

ifneq ($(PGXS),)
include $(PGXS)
else
# Neither PGXS nor a compiler is needed to copy text files.
EXTDIR ?= $(addsuffix /extension,$(shell $(PG_CONFIG) --sharedir 2>/dev/null))

install uninstall: named
.PHONY: named
named:
	@test -n '$(EXTDIR)' || { echo 'no Postgres: name its pg_config (PG_CONFIG=…) or a directory (EXTDIR=…)'; exit 1; }

install:
	mkdir -p '$(DESTDIR)$(EXTDIR)'
	cp hotmesh.control $(DATA) '$(DESTDIR)$(EXTDIR)/'
	cd '$(DESTDIR)$(EXTDIR)' && chmod 644 hotmesh.control $(notdir $(DATA))

uninstall:
	cd '$(DESTDIR)$(EXTDIR)' && rm -f hotmesh.control $(notdir $(DATA))

clean:
	rm -rf .venv .ruff_cache .mypy_cache .pytest_cache .hypothesis python_driver/dist
	find . -name __pycache__ -prune -exec rm -rf {} +
endif
