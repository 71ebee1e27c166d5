# SPDX-License-Identifier: Apache-2.0
# A thin front to Meson. `make` builds build/umbp, build/libumbp.so and build/libumbp.a.
BUILD ?= build
MESON_OPTIONS ?=
TRACE := ../shared/data/conversation_trace.jsonl

.PHONY: all deps test run install clean format lint

all:
	@scripts/build $(BUILD) $(MESON_OPTIONS)

deps:
	@scripts/install-deps

test: deps
	@scripts/build $(BUILD) $(MESON_OPTIONS)
	@scripts/run-tests $(BUILD) --counts $(BUILD)/test-counts

run: deps
	@scripts/build $(BUILD) $(MESON_OPTIONS)
	$(BUILD)/umbp replay $(if $(wildcard $(TRACE)),--trace $(TRACE))
	@if [ -x $(BUILD)/umbp_master ]; then \
	    echo $(BUILD)/umbp demo cluster $(if $(wildcard $(TRACE)),--trace $(TRACE)); \
	    $(BUILD)/umbp demo cluster $(if $(wildcard $(TRACE)),--trace $(TRACE)); \
	else echo "no umbp_master in this build: umbp demo cluster is left out"; fi

install: all
	meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf $(BUILD)

format:
	clang-format -i $$(find src include tests python -name '*.[ch]')

lint: all
	scripts/check-layers
	scripts/check-spdx
	scripts/check-exports $(BUILD)/libumbp.so
	scripts/check-calls
	clang-format --dry-run -Werror $$(find src include tests python -name '*.[ch]')
