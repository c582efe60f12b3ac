# The front door. `make help` lists what it can do.
BUILD   ?= build
JOBS    ?= $(shell nproc)
START  := $(shell date +%s)
CLANG_FORMAT ?= clang-format
CMAKE_FLAGS ?=
SECONDS_EACH ?= 60
CONFIGURE = cmake -S . -B $(BUILD) -DCMAKE_BUILD_TYPE=Release $(CMAKE_FLAGS)
# Most often a package is missing, and CMake names one at a time.
OR_SAY = || { echo "Configuring failed. \`make deps\` installs every package that a build needs."; exit 2; }

.PHONY: all build deps demo test gpu test-gpu smoke fuzz asan format format-check clean help

all: build

help:
	@echo "make            build build/pyramoe (Release)"
	@echo "make deps       install the packages that a build needs (Debian, Ubuntu; elsewhere it names them)"
	@echo "make demo       install what is missing, build, train three models on real text"
	@echo "make demo DATA=my.txt    the same on your own text"
	@echo "make test       install what is missing, build and run all tests"
	@echo "make gpu        build build-gpu/pyramoe with CUDA (needs nvcc; GPU=\"80;90a\" for other cards)"
	@echo "make test-gpu   build that with its tests and run those that use a GPU"
	@echo "make smoke      build, then run every experiment end to end at its smallest (minutes)"
	@echo "make asan       build with address and undefined-behaviour sanitizers, run the suites of"
	@echo "                kernels, ops, files, data and training"
	@echo "make fuzz       build the fuzzers (clang) and replay their corpora"
	@echo "make format     clang-format all sources; make format-check only looks"
	@echo "make clean      delete the build folders"

deps:
	@cmake/install_deps.sh

build:
	@$(CONFIGURE) -DPYRAMOE_TESTS=OFF $(OR_SAY)
	@cmake --build $(BUILD) --parallel $(JOBS) --target pyramoe

demo: deps
	@exec env DEMO_START=$(START) experiments/demo/demo.sh $(BUILD) "$(DATA)"

test: deps
	@$(CONFIGURE) -DPYRAMOE_TESTS=ON
	@cmake --build $(BUILD) --parallel $(JOBS)
	@tests/run.sh $(BUILD)

GPU ?= 90a
CONFIGURE_GPU = cmake -S . -B build-gpu -DCMAKE_BUILD_TYPE=Release -DPYRAMOE_CUDA=ON \
  -DPYRAMOE_CUDA_ARCHITECTURES="$(GPU)" $(CMAKE_FLAGS)
gpu:
	@$(CONFIGURE_GPU) -DPYRAMOE_TESTS=OFF $(OR_SAY)
	@cmake --build build-gpu --parallel $(JOBS) --target pyramoe workshop

# One test at a time: they share the device.
GPU_SUITES = gpu ops
test-gpu: deps
	@$(CONFIGURE_GPU) -DPYRAMOE_TESTS=ON
	@cmake --build build-gpu --parallel $(JOBS) --target pyramoe $(GPU_SUITES:%=%_test)
	@tests/run.sh build-gpu -L '^(gpu|ops)$$' -j 1

smoke: deps build
	@tests/smoke/run.sh $(BUILD)

# Kernels, ops, files, data and whole training steps. The other suites (routing, inference, reports,
# the program under ulimits) run in `make test` alone.
ASAN_SUITES = core data house ops train
asan: deps
	@cmake -S . -B build-asan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPYRAMOE_TESTS=ON \
	  -DPYRAMOE_SANITIZE=address,undefined
	@cmake --build build-asan --parallel $(JOBS) --target $(ASAN_SUITES:%=%_test)
	@tests/run.sh build-asan -L '^(core|data|house|ops|train)$$'

fuzz: deps
	@cmake/install_deps.sh clang-14 libclang-rt-14-dev
	@tests/fuzz/run.sh build-fuzz $(SECONDS_EACH)

format:
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(CLANG_FORMAT) -i

format-check:
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(CLANG_FORMAT) --dry-run --Werror

clean:
	@rm -rf build build-*
