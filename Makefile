# make demo         models, services, a load and a report, in one command
# make test         all that must hold before a commit
# make check-long   what takes longer than a commit can wait for
# make clean        removes what the others made, except .venv
#
# scripts/venv tells which variables choose the interpreter and the build of torch. More flags for the demo:
#   make demo ARGS="--duration-s 60 --utilisation 0.4"; `.venv/bin/cotenant demo --help` lists them.

ARGS :=

.PHONY: demo test check-long clean venv

demo: venv
	@.venv/bin/cotenant demo $(ARGS)

test: venv
	@. .venv/bin/activate && scripts/check $(ARGS)

check-long: venv
	@. .venv/bin/activate && pytest -m "long and not gpu" $(ARGS)

clean:
	rm -rf models report build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find protos frontend scheduler executor predictor cli tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

venv:
	@scripts/venv
