# make demo | test | check: each sets up what it needs. make help lists everything.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin
PACKAGES := edgevlm edgevlm_export edgevlm_calibration edgevlm_tabletop edgevlm_ros
TREES := edgevlm export calibration examples benchmarks ros2_ws tests docs
NATIVE_SOURCES := CMakeLists.txt $(wildcard edgevlm/csrc/*)

CHECKPOINT := examples/tabletop/checkpoint
LOG := examples/tabletop/log.mcap
ROS := build/ros
# A shell with the built workspace, where there is one.
IN_ROS := if test -e $(ROS)/install/setup.sh; then . $(ROS)/install/setup.sh; fi;
ROS_SOURCES := $(shell find ros2_ws/src -type f -not -name '*.pyc')
DEMO := build/demo
BUNDLE := build/tabletop-int8
FP32 := build/tabletop-fp32

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup ros-build ros-demo ros-gate chaos ros-bench soak demo test test-all check both closed-loop bench bench-real attack chat-gate families lerobot floor clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

setup: $(VENV)/.installed ## .venv with everything that development needs (PYTHON=python3.12 picks the interpreter)

$(VENV)/.created: .ci/system-packages
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "make setup: expected Python 3.11 to 3.13, got $$($(PYTHON) --version 2>&1) from '$(PYTHON)'; name another: make setup PYTHON=python3.12" >&2; exit 1; }
	PYTHON=$(PYTHON) .ci/system-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	touch $@

# Build tools first, and no build isolation: the native module is then built again from its own CMake cache.
$(VENV)/.dependencies: $(VENV)/.created pyproject.toml constraints.txt
	@echo "setup 1 of 3: build tools, into $(VENV)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt 'pip>=24' scikit-build-core nanobind cmake ninja
	@echo "setup 2 of 3: what development needs, PyTorch among it: some minutes the first time"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt --no-build-isolation -e '.[cpu,vision,chat,bags,export,sim,dev]'
	touch $@

$(VENV)/.installed: $(VENV)/.dependencies $(NATIVE_SOURCES)
	@echo "setup 3 of 3: edgevlm and its native module"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The pip wheels of ROS 2 are for x86-64; on a robot ROS comes from apt and colcon from there (docs/ros.md).
$(VENV)/.ros: $(VENV)/.dependencies ros2_ws/requirements.txt ros2_ws/mend_wheels.py
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -r ros2_ws/requirements.txt
	$(BIN)/python ros2_ws/mend_wheels.py
	touch $@

$(ROS)/.built: $(VENV)/.installed $(VENV)/.ros $(ROS_SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" AMENT_PREFIX_PATH=$(CURDIR)/$(VENV) CMAKE_PREFIX_PATH=$(CURDIR)/$(VENV) $(BIN)/colcon --log-base $(ROS)/log build \
	  --base-paths ros2_ws/src --build-base $(ROS)/build --install-base $(ROS)/install --event-handlers console_cohesion- \
	  --cmake-args -DPython3_EXECUTABLE=$(CURDIR)/$(BIN)/python -DBUILD_TESTING=OFF
	touch $@

ros-build: $(ROS)/.built ## the ROS 2 workspace, with colcon (x86-64: ROS 2 Jazzy from pip)

ros-demo: ros-build ## the policy drives the simulated robot through ROS 2 nodes, in real time
	$(BIN)/edgevlm export $(CHECKPOINT) -o $(BUNDLE) --int8 --calib $(LOG)
	$(IN_ROS) $(BIN)/python -m edgevlm_tabletop.ros.demo $(BUNDLE) --json build/ros-demo.json

ros-gate: ros-build both ## 600 episodes over DDS must equal those of one process to the last bit; then 60 in real time
	$(IN_ROS) $(BIN)/python -m edgevlm_tabletop.ros.gate --fp32 $(FP32) --int8 $(BUNDLE) --json build/ros-gate.json

chaos: ros-build ## everything that can go wrong with the nodes, with the gate and without it (10 minutes)
	$(BIN)/edgevlm export $(CHECKPOINT) -o $(BUNDLE) --int8 --calib $(LOG)
	$(IN_ROS) PYTHONPATH=tests:$$PYTHONPATH $(BIN)/python -m ros.chaos --bundle $(BUNDLE) --json build/chaos.json

ros-bench: ros-build ## a 30 Hz 640x480 camera against the nodes: latency, periods, overhead, losses (on a machine that does nothing else)
	$(BIN)/edgevlm export $(CHECKPOINT) -o $(BUNDLE) --int8 --calib $(LOG)
	$(IN_ROS) PYTHONPATH=tests:$$PYTHONPATH $(BIN)/python benchmarks/ros_latency.py --bundle $(BUNDLE) --json build/ros-latency.json

soak: ros-build ## a million random chunks through the gate, then MINUTES (20) of 30 Hz through the nodes
	$(BIN)/edgevlm export $(CHECKPOINT) -o $(BUNDLE) --int8 --calib $(LOG)
	$(IN_ROS) PYTHONPATH=tests:$$PYTHONPATH $(BIN)/python benchmarks/soak.py --bundle $(BUNDLE) --minutes $(or $(MINUTES),20) --json build/soak.json

demo: setup ## export the trained tabletop policy to INT8, drive the simulated robot, profile
	mkdir -p $(DEMO)
	$(BIN)/edgevlm export $(CHECKPOINT) -o $(BUNDLE) --int8 --calib $(LOG)
	$(BIN)/edgevlm inspect $(BUNDLE)
	$(BIN)/edgevlm run $(BUNDLE) --sim --episodes 30 --json $(DEMO)/run.json --record $(DEMO)/robot.mp4 --strip $(DEMO)/robot.png
	$(BIN)/edgevlm profile $(BUNDLE) --json $(DEMO)/profile.json
	@echo "robot: $(DEMO)/robot.mp4 and robot.png; figures: $(DEMO)/run.json and profile.json"

# Two processes, each with a core of its own; then the ROS nodes whose times count, with nothing beside them.
define pytest
$(IN_ROS) $(BIN)/python -m pytest -n 2 --dist loadscope -m "$(1)not alone" tests
$(IN_ROS) $(BIN)/python -m pytest -m "$(1)alone" tests/ros
endef
ROS_FROM_PIP := $(if $(filter x86_64,$(shell uname -m)),ros-build)

test: setup $(ROS_FROM_PIP) ## all tests but those marked slow; ROS nodes in processes of their own where ROS can be had from pip
	$(call pytest,not slow and )

test-all: setup $(ROS_FROM_PIP) ## every test, as continuous integration runs them (half an hour)
	$(call pytest)

check: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check $(TREES)
	$(BIN)/ruff format --check $(TREES)
	$(BIN)/mypy --strict $(addprefix -p ,$(PACKAGES))
	$(BIN)/mypy --strict benchmarks
	PYTHONPATH=ros2_ws/src/edgevlm_ros $(BIN)/lint-imports

both: setup # the two bundles that closed-loop and bench compare
	$(BIN)/edgevlm export $(CHECKPOINT) -o $(FP32) --calib $(LOG)
	$(BIN)/edgevlm export $(CHECKPOINT) -o $(BUNDLE) --int8 --calib $(LOG)

closed-loop: both ## fp32 against int8 over 915 paired episodes, the controls and the plan (half an hour)
	$(BIN)/python benchmarks/gate.py --fp32 $(FP32) --int8 $(BUNDLE) --json build/gate.json
	$(BIN)/python -m edgevlm_tabletop.plan_gate $(BUNDLE) --json build/plan.json

bench: both ## the whole step: PyTorch, fp32 and int8, interleaved
	$(BIN)/python benchmarks/step.py --checkpoint $(CHECKPOINT) --fp32 $(FP32) --int8 $(BUNDLE) --json build/step.json

bench-real: setup ## encoders at the size that people run, weights at random, beside PyTorch and ONNX Runtime
	PYTHONPATH=tests $(BIN)/python benchmarks/real_size.py --json build/real-size.json

attack: setup ## hostile and broken inputs of every kind, SECONDS (30) of each: counts and findings (docs/reliability.md)
	PYTHONPATH=tests $(BIN)/python benchmarks/attacks.py --seconds $(or $(SECONDS),30) --json build/attack.json

chat-gate: setup ## export of a 256 M chat, then one with a stage of over 2 GB (needs 16 GB of memory; ten minutes, on a machine that does nothing else)
	PYTHONPATH=tests $(BIN)/python benchmarks/chat_export.py --json build/chat-256m.json
	PYTHONPATH=tests $(BIN)/python benchmarks/chat_export.py --shape over-2gb --json build/chat-2gb.json

families: setup ## every family from a small upstream checkpoint: remakes the table of docs/families.md
	PYTHONPATH=tests $(BIN)/python benchmarks/families.py --json build/families.json --write docs/families.md

.venv-lerobot/.installed: tests/export/lerobot/requirements.txt tests/export/lerobot/install
	PIP_ARGS='$(PIP_ARGS)' LEROBOT_PYTHON='$(LEROBOT_PYTHON)' tests/export/lerobot/install

lerobot: setup .venv-lerobot/.installed ## LeRobot in an environment of its own (Python 3.12, gigabytes): its chunks against the bundles'
	PYTHONPATH=tests $(BIN)/python benchmarks/lerobot_parity.py --json build/lerobot.json

docs: setup ## the documentation as a site under build/site; a dead link fails
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt 'mkdocs>=1.6,<2' 'mkdocs-material>=9.7,<10' 'mkdocstrings[python]>=1,<2'
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --quiet
	@echo "site: build/site/index.html"

floor: setup ## the runtime's tests on the oldest Python and NumPy promised, where that Python is at hand
	.ci/floor

clean: ## remove what was built; the environments stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
