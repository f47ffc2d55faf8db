# make demo             everything on a fresh machine, on synthetic rocks; ends with report.html
# make demo ROCKS=DIR   the same on your images, one sub-folder per rock
# make demo3d           volumes, on synthetic rocks
# make demo3d ROCKS=DIR the same on your volumes: one sub-folder per rock; or ROCKS=FILE, one volume
# make test             the test suite
# make test-all         the test suite with its slow tests
# make nightly          its many repetitions
# make soak             an hour of trainings that are stopped, killed and damaged at random: SOAK_SECONDS, SOAK_SEED
# make docs             docs/settings.md and configs/schema.json, from the settings; lines in docs/architecture.md

PYTHON ?= python3
ROCKS ?=
DEMO_SECONDS ?= 240
DEMO := demo/$(if $(ROCKS),own-$(shell basename "$$(cd "$(ROCKS)" 2>/dev/null && pwd)"),synthetic)
SOURCE := $(or $(ROCKS),$(DEMO)/rocks)
BIN := .venv/bin

.PHONY: demo demo3d test test-all nightly soak docs

demo: .venv/installed
	$(if $(ROCKS),@test -d "$(ROCKS)" || { echo "ROCKS=$(ROCKS) is not a folder"; exit 1; })
	@if [ -e "$(DEMO)/run" ]; then echo "the demo before this one, $(DEMO)/run, is removed"; fi
	@rm -rf "$(DEMO)"
	@mkdir -p "$(DEMO)"
	$(if $(ROCKS),,$(BIN)/python shards/synthesize.py "$(DEMO)/rocks")
	$(BIN)/python shards/build.py "$(SOURCE)" "$(DEMO)/shards"
	$(BIN)/python launch/train.py configs/demo.yaml --name=run --output="$(DEMO)" --data.path="$(DEMO)/shards" \
		--pretrain.max_seconds=$$(( $(DEMO_SECONDS) * 3 / 4 )) --adversarial.max_seconds=$$(( $(DEMO_SECONDS) / 4 ))
	$(BIN)/python launch/evaluate.py "$(DEMO)/run" "$(DEMO)/shards"
	@echo
	@echo "Look at"
	@echo "  $(DEMO)/run/eval/report.html   in a browser: verdicts, scores, crops, plots, training, all in one file"
	@echo "  $(DEMO)/run/eval/figure2.png   crops of every method, and their errors"
	@echo "  $(DEMO)/run/eval/figure3.png   PSNR per image and rock"
	@echo "  $(DEMO)/run/eval/scores.json   the means per rock; scores.csv has every image"
	@echo "  $(DEMO)/run/samples/           LR | bicubic | SR | HR | error during the training"
	@echo "  $(DEMO)/run/metrics.jsonl      every logged number; wandb sync $(DEMO)/run/wandb/latest-run shows them online"
	@echo "Super-resolve an image of your own:"
	@echo "  $(BIN)/python launch/super_resolve.py $(DEMO)/run/weights/adversarial.safetensors INPUT OUTPUT"

# Two workers per core: many tests wait for processes, locks or time limits
WORKERS := $(shell n=$$((2 * $$(getconf _NPROCESSORS_ONLN))); echo $$((n < 8 ? n : 8)))
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

DEMO3D_SECONDS ?= 240
DEMO3D := demo3d/$(if $(ROCKS),own-$(shell basename "$$(realpath "$(ROCKS)")"),synthetic)
SOURCE3D := $(or $(ROCKS),$(DEMO3D)/rocks)

demo3d: .venv/installed
	$(if $(ROCKS),@test -e "$(ROCKS)" || { echo "ROCKS=$(ROCKS) does not exist"; exit 1; })
	@if [ -e "$(DEMO3D)/run" ]; then echo "the demo before this one, $(DEMO3D)/run, is removed"; fi
	@rm -rf "$(DEMO3D)"
	@mkdir -p "$(DEMO3D)"
	$(if $(ROCKS),,$(BIN)/python shards/synthesize.py "$(DEMO3D)/rocks" --dims 3)
	@# Few volumes would teach few of the kernels of --kind unknown
	@# A volume needs 5 crops along an axis for splits of its own: 240 voxels, or of smaller ones 120
	@for crop in 48 24; do \
		rm -rf "$(DEMO3D)/shards"; lr=$$(( crop / 4 )); \
		echo "--data.lr_crop=$$lr --data.batch_size=$$(( 4 * 12 * 12 * 12 / (lr * lr * lr) ))" > "$(DEMO3D)/crops"; \
		$(BIN)/python shards/build.py "$(SOURCE3D)" "$(DEMO3D)/shards" --dims 3 --crop $$crop --kind default; \
		if [ -e "$(DEMO3D)/shards/valid.index.npy" ]; then exit 0; fi; \
		echo "With crops of $$crop voxels there is no valid split"; \
	done; \
	echo "ROCKS=$(ROCKS) is too small: the demo needs a volume of 120 voxels along an axis and 24 along the others," \
		"or two volumes of one rock of 24 along all axes"; exit 1
	$(BIN)/python launch/train.py configs/volume_demo.yaml --name=run --output="$(DEMO3D)" \
		--data.path="$(DEMO3D)/shards" $$(cat "$(DEMO3D)/crops") --pretrain.max_seconds=$$(( $(DEMO3D_SECONDS) * 3 / 4 )) \
		--adversarial.max_seconds=$$(( $(DEMO3D_SECONDS) / 4 ))
	$(BIN)/python launch/evaluate.py "$(DEMO3D)/run" "$(DEMO3D)/shards"
	@echo
	@echo "Look at"
	@echo "  $(DEMO3D)/run/eval/report.html   in a browser: verdicts, scores, slices in three directions, plots, training"
	@echo "  $(DEMO3D)/run/samples/           LR | bicubic | SR | HR | error of slices across z, y and x"
	@echo "Super-resolve a volume of your own:"
	@echo "  $(BIN)/python launch/super_resolve.py $(DEMO3D)/run/weights/adversarial.safetensors INPUT OUTPUT"

test: .venv/installed
	$(PYTEST) -m "not slow and not nightly"

test-all: .venv/installed
	$(PYTEST) -m "not nightly"

nightly: .venv/installed
	$(PYTEST) -m nightly

SOAK_SECONDS ?= 3600
SOAK_SEED ?= 0

soak: .venv/installed
	$(BIN)/python tests/soak/soak.py --seconds $(SOAK_SECONDS) --seed $(SOAK_SEED)

docs: .venv/installed
	$(BIN)/python -m srgan_dist settings --markdown > docs/settings.md
	$(BIN)/python -m srgan_dist schema > configs/schema.json
	$(BIN)/python tests/docs/test_architecture.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[test]"
	@touch $@
