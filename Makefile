# Needs Python 3.11 or 3.12, git, gcc and make. `make help` lists the commands.
#
# Packages are outside the clone, in a folder named after a hash of the lock files, for all clones. So is
# the wheel of mmcv with compiled operators, which only detection and `make test` need. The clone has a
# small environment of its own, .venv, with this package and the command `mmonepeace`.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mmonepeace
KEY := $(shell cat requirements/lock-*.txt | sha256sum | cut -c1-12)
# An index with PyTorch for CPUs, to leave out CUDA: its libraries are more than half of the environment.
TORCH_INDEX ?=
CUDA := ^(nvidia-|cuda-|triton=)
TORCH := ^torch(audio|vision)?=
# Nothing for Python 3.11 with CUDA; other environments have folders of their own.
VERSION := $(filter-out -3.11,-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))$(if $(TORCH_INDEX),-cpu)
SHARED := $(CACHE)/venv-$(KEY)$(VERSION)
PACKAGES := $(SHARED)/bin/python -m pip
# Install a lock file, read by pip as it is or without CUDA.
define install_lock
	$(if $(TORCH_INDEX),$(PACKAGES) install --no-deps --progress-bar off -q --index-url $(TORCH_INDEX) $$(grep -E '$(TORCH)' $(1) | sed 's/===/==/') >&2)
	$(PACKAGES) install --no-deps --progress-bar off -q -r $(if $(TORCH_INDEX),<(grep -vE '$(TORCH)|$(CUDA)' $(1)),$(1)) >&2
endef
PY := $(CURDIR)/.venv/bin/python
LINKED := .venv/.linked-$(KEY)$(VERSION)
MMCV := $(shell grep -h '^onedl-mmcv==' requirements/lock-base.txt)
# The wheel depends on what it is built with, not on every line of the lock files.
WHEEL_KEY := $(shell grep -hE '^(torch|onedl-mmcv|setuptools|ninja)=' requirements/lock-*.txt | sha256sum | cut -c1-12)
WHEELS := $(CACHE)/wheels-$(WHEEL_KEY)$(VERSION)

# Processes of `make test`, each with one thread.
WORKERS ?= 2

DEMO := configs/tiny/onepeace-tiny_upernet_emoji-128.py
DEMO_DATA := data/emoji_scenes
DEMO_PICTURE := work_dirs/demo/predictions.png
PAIRS := data/pretrain_demo
PRETRAINED := work_dirs/pretrain_demo
DET := configs/tiny/onepeace-tiny_mask-rcnn_emoji-160.py
DET_DATA := data/emoji_objects
NAMES := configs/tiny/onepeace-tiny_vl_emoji-names-32.py
GROUNDING := configs/tiny/onepeace-tiny_grounding_emoji-64.py
ANSWERING := configs/tiny/onepeace-tiny_vqa_emoji-64.py
PHRASES := data/emoji_phrases
QUESTIONS := data/emoji_questions
SCENE_TOKENIZER := $(PHRASES)/tokenizer.json
GROUND := work_dirs/ground_demo
VQA := work_dirs/vqa_demo
INSTRUMENTS := configs/tiny/onepeace-tiny_al_gm-instruments-log-mel.py
NOTE_ANSWERS := configs/tiny/onepeace-tiny_answers_notes.py
NOTES := data/audio_demo/notes
NOTE_QUESTIONS := data/note_questions
NOTE_TOKENIZER := $(NOTE_QUESTIONS)/tokenizer.json
AUDIO := work_dirs/audio_demo

.PHONY: help demo demo-data pretrain-demo det-demo scene-data ground-demo vqa-demo audio-demo demo-page faults test lint python packages env env-full clean

help:
	@echo "make demo             build a data set, fine-tune for segmentation on the CPU, draw predictions"
	@echo "make pretrain-demo    pretrain both stages on the CPU: sounds find images that no step saw with them"
	@echo "make det-demo         compile mmcv's operators, train a detector with masks from the demo's encoder, draw it"
	@echo "make ground-demo      find what phrases name in scenes: pretrain on names, fine-tune on boxes, draw them"
	@echo "make vqa-demo         answer questions about scenes from the encoder of ground-demo"
	@echo "make audio-demo       answer questions about sounds: pretrain on notes and their names, fine-tune on questions"
	@echo "make demo-page        try the demos' models in a browser; runs demo and pretrain-demo first if need be"
	@echo "make test             compile mmcv's operators, run the linter, the type checker and all tests"
	@echo "make faults           kill runs, damage files, fill the disk: a table of what held (20 minutes)"
	@echo "make lint             run the linter and the type checker"
	@echo "make -s python        print the Python of the environment, which is created if it is missing"
	@echo "make env-full         add what detection and the tests need to the environment"
	@echo "make packages         install all packages without this one, for images (see Dockerfile)"
	@echo "make ... TORCH_INDEX=URL   use PyTorch for CPUs from its index, without CUDA's libraries"
	@echo "make clean            remove what the demos wrote"

# ------------------------------------------------------------------------------- environment

$(SHARED)/.base:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] in ((3, 11), (3, 12)) else f"the locked environment is for Python 3.11 and 3.12, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11 ...")' >&2
	@echo "installing into $(SHARED) (once, about two minutes)" >&2
	$(PYTHON) -m venv $(SHARED) >&2
	$(call install_lock,requirements/lock-base.txt)
	touch $@

# Replaces the mmcv without operators, which may also be in pip's cache: hence --no-cache-dir.
$(WHEELS)/.built: | $(SHARED)/.base
	@echo "compiling mmcv's operators (once, 6 to 15 minutes)" >&2
	mkdir -p $(WHEELS)
	PATH=$(SHARED)/bin:$$PATH MMCV_WITH_OPS=1 $(PACKAGES) wheel -q --no-cache-dir --no-build-isolation --no-deps $(MMCV) -w $(WHEELS) >&2
	touch $@

$(SHARED)/.full: | $(SHARED)/.base
	$(call install_lock,requirements/lock-full.txt)
	$(MAKE) --no-print-directory $(WHEELS)/.built >&2
	$(PACKAGES) install --no-deps -q --force-reinstall $(WHEELS)/*.whl >&2
	touch $@

# What is installed into .venv later comes before the shared packages, whose commands (torchrun, pytest)
# are copied, since they name their Python in the first line.
$(LINKED): setup.py | $(SHARED)/.base
	rm -rf .venv
	$(SHARED)/bin/python -m venv .venv >&2
	@for d in $(SHARED)/lib/python3*/site-packages; do \
	  rm -f $$d/mmonepeace.pth; \
	  echo "import site; site.addsitedir('$$d')" > .venv/lib/$$(basename $$(dirname $$d))/site-packages/shared.pth; done
	@for c in $$(grep -lI '^#!$(SHARED)/bin/python' $(SHARED)/bin/*); do \
	  [ -e .venv/bin/$$(basename $$c) ] || sed '1s|.*|#!$(PY)|' $$c | install -m 755 /dev/stdin .venv/bin/$$(basename $$c); done
	$(PY) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . >&2
	touch $@

env: $(LINKED)

packages: $(SHARED)/.full

env-full: packages env

python: env
	@echo $(PY)

# -------------------------------------------------------------------------------------- demo

demo-data: env
	$(PY) tools/dataset_converters/emoji_scenes.py --out $(DEMO_DATA)

demo: demo-data
	$(PY) tools/train.py $(DEMO) --work-dir work_dirs/demo
	$(PY) tools/test.py $(DEMO) work_dirs/demo --work-dir work_dirs/demo
	$(PY) tools/show_predictions.py $(DEMO) work_dirs/demo --num 8 --out $(DEMO_PICTURE)

# Written last: the demo has been trained.
$(DEMO_PICTURE):
	$(MAKE) --no-print-directory demo

# Images with names, then audio under the names of images; the evaluation adds audio with images, which
# no step has seen together.
pretrain-demo: env
	$(PY) tools/dataset_converters/emoji_pairs.py --out $(PAIRS)/emoji
	$(PY) tools/dataset_converters/instrument_notes.py --out $(PAIRS)/notes
	$(PY) tools/dataset_converters/common_names.py --emoji $(PAIRS)/emoji --notes $(PAIRS)/notes --out $(PAIRS)/common
	$(PY) tools/train_tokenizer.py $(PAIRS)/common/images_train.tsv $(PAIRS)/common/other_images_train.tsv $(PAIRS)/tokenizer.json --vocab-size 1000
	$(PY) tools/pretrain.py configs/tiny/onepeace-tiny_vl_common-names-32.py --data-root $(PAIRS)/common --tokenizer $(PAIRS)/tokenizer.json --work-dir $(PRETRAINED)/vl
	$(PY) tools/pretrain.py configs/tiny/onepeace-tiny_al_common-names.py --data-root $(PAIRS)/common --tokenizer $(PAIRS)/tokenizer.json --stage-one $$(cat $(PRETRAINED)/vl/last_checkpoint) --work-dir $(PRETRAINED)/al
	$(PY) tools/evaluate_retrieval.py $(PRETRAINED)/al --tokenizer $(PAIRS)/tokenizer.json \
	  --table $(PAIRS)/emoji/val.tsv --columns image=image text=caption \
	  --table $(PAIRS)/common/sounds_val.tsv --columns audio=audio text=caption \
	  --table $(PAIRS)/common/sound_to_picture.tsv --columns audio=audio image=image \
	  --out $(PRETRAINED)/retrieval.json --gallery $(PRETRAINED)/gallery.png --queries 5 \
	  --directions text_to_image audio_to_text audio_to_image

# Starts from the encoder of `make demo`.
det-demo: env-full | $(DEMO_PICTURE)
	$(PY) tools/dataset_converters/emoji_objects.py --out $(DET_DATA)
	$(PY) tools/doctor.py $(DET)
	$(PY) tools/train.py $(DET) --checkpoint $$(cat work_dirs/demo/last_checkpoint) --work-dir work_dirs/det_demo
	$(PY) tools/test.py $(DET) work_dirs/det_demo --work-dir work_dirs/det_demo
	$(PY) tools/show_predictions.py $(DET) work_dirs/det_demo --num 8 --out work_dirs/det_demo/predictions.png

# The tokenizer has the words of phrases, questions and statements.
scene-data: env
	$(PY) tools/dataset_converters/emoji_phrases.py --out $(PHRASES)
	$(PY) tools/dataset_converters/emoji_questions.py --out $(QUESTIONS)
	$(PY) tools/train_tokenizer.py $(PHRASES)/train.tsv:text $(QUESTIONS)/questions_train.tsv:question $(QUESTIONS)/statements_train.tsv:text $(SCENE_TOKENIZER) --vocab-size 500

ground-demo: scene-data
	$(PY) tools/pretrain.py $(NAMES) --tokenizer $(SCENE_TOKENIZER) --work-dir $(GROUND)/names
	$(PY) tools/train.py $(GROUNDING) --tokenizer $(SCENE_TOKENIZER) --checkpoint $(GROUND)/names --work-dir $(GROUND)/phrases
	$(PY) tools/test.py $(GROUNDING) $(GROUND)/phrases --tokenizer $(SCENE_TOKENIZER) --work-dir $(GROUND)/phrases
	$(PY) tools/predict.py $(GROUND)/phrases --tokenizer $(SCENE_TOKENIZER) --table $(PHRASES)/val.tsv --columns image=image text=text --num 100 --html $(GROUND)/predictions.html --png $(GROUND)/predictions.png

# Written last: the demo has been trained.
$(GROUND)/predictions.html:
	$(MAKE) --no-print-directory ground-demo

vqa-demo: env | $(GROUND)/predictions.html
	$(PY) tools/train.py $(ANSWERING) --tokenizer $(SCENE_TOKENIZER) --checkpoint $(GROUND)/phrases --work-dir $(VQA)
	$(PY) tools/test.py $(ANSWERING) $(VQA) --tokenizer $(SCENE_TOKENIZER) --work-dir $(VQA)
	$(PY) tools/predict.py $(VQA) --tokenizer $(SCENE_TOKENIZER) --table $(QUESTIONS)/questions_val.tsv --columns image=image text=question --num 100 --html $(VQA)/predictions.html --png $(VQA)/predictions.png

# The tokenizer has the words of names and questions.
audio-demo: env
	$(PY) tools/dataset_converters/instrument_notes.py --out $(NOTES)
	$(PY) tools/dataset_converters/note_questions.py --notes $(NOTES) --out $(NOTE_QUESTIONS)
	$(PY) tools/train_tokenizer.py $(NOTES)/train.tsv:label $(NOTE_QUESTIONS)/questions_train.tsv:text $(NOTE_TOKENIZER) --vocab-size 2000
	$(PY) tools/pretrain.py $(INSTRUMENTS) --data-root $(NOTES) --tokenizer $(NOTE_TOKENIZER) --work-dir $(AUDIO)/names
	$(PY) tools/train.py $(NOTE_ANSWERS) --tokenizer $(NOTE_TOKENIZER) --checkpoint $(AUDIO)/names --work-dir $(AUDIO)/answers
	$(PY) tools/test.py $(NOTE_ANSWERS) $(AUDIO)/answers --tokenizer $(NOTE_TOKENIZER) --work-dir $(AUDIO)/answers
	$(PY) tools/predict.py $(AUDIO)/answers --tokenizer $(NOTE_TOKENIZER) --table $(NOTE_QUESTIONS)/questions_val.tsv --columns audio=audio text=question --num 100 --html $(AUDIO)/predictions.html

# Written last by pretrain-demo.
$(PRETRAINED)/gallery.png:
	$(MAKE) --no-print-directory pretrain-demo

$(PRETRAINED)/index.safetensors: | $(PRETRAINED)/gallery.png
	$(PY) tools/embed.py $(PRETRAINED)/al --tokenizer $(PAIRS)/tokenizer.json --images $(PAIRS)/emoji --audios $(PAIRS)/notes --out $@

demo-page: env | $(DEMO_PICTURE) $(PRETRAINED)/index.safetensors
	$(PY) tools/demo.py

# ------------------------------------------------------------------------------------- tests

# FAULTS="--only kills --seed 3", for example
faults: env-full
	$(PY) -m benchmarks.faults $(FAULTS)

lint: env-full
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# A file of tests stays in one process, which builds what its tests share.
test: lint
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

clean:
	rm -rf work_dirs/demo $(DEMO_DATA) $(PRETRAINED) $(PAIRS) work_dirs/det_demo $(DET_DATA) $(GROUND) $(VQA) $(PHRASES) $(QUESTIONS) $(AUDIO) $(NOTES) $(NOTE_QUESTIONS)
