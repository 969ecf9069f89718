# Two commands do everything on a fresh Debian 12 or 13 or Raspberry Pi OS: make run, make test.
.PHONY: run test check bench proof clean
SHELL = /bin/bash
PY = .venv/bin/python

run: .venv/ready
	@$(PY) -m firmware simulate tests/scenarios/shop-day.txt --live --console --calls 100000 || [ $$? -eq 130 ]

# What only computes runs behind what keeps real time, and gives way to it.
test: .venv/ready
	@nice -n 19 $(PY) -m pytest -m 'not realtime' --numprocesses auto --dist worksteal >.venv/computing.log 2>&1 & \
	computing=$$!; trap "kill $$computing 2>/dev/null" INT TERM; \
	$(PY) -m pytest -m realtime; realtime=$$?; \
	wait $$computing; computed=$$?; cat .venv/computing.log; exit $$((realtime || computed))

check: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

bench: .venv/ready
	@provisioning/develop.sh provisioning/packages-bench.txt
	$(PY) -m tests.bench

proof: .venv/ready
	@{ command -v npm && command -v chromium; } >/dev/null || provisioning/develop.sh provisioning/packages-proof.txt
	$(PY) -m tests.proof

clean:
	rm -rf .venv var

.venv/ready: requirements.txt requirements-dev.txt provisioning/packages.txt provisioning/packages-dev.txt provisioning/develop.sh
	@provisioning/develop.sh
	@touch $@
