# The front door. `make` runs the main job on the toy dataset; `make help` lists the goals.
#
# A goal named on the command line always runs its command, which reuses what is complete. What a
# goal needs from the goals before it is made only where it is lacking. Goals run in the order given.

PYTHON      ?= python3
DATASET     ?= toy
OUT         ?= out
# On the toy dataset the method by which pretraining pays there: docs/findings.md.
METHOD      ?= $(if $(filter toy,$(DATASET)),velocity,mofo)
# Empty means: as the command or the recipe has it.
HEAD        ?=
VIDEOS      ?=
ANNOTATIONS ?=
MANIFEST    ?=
CLIPS_PER_SHARD ?=
NUM_GPUS    ?=
PART        ?=
STRICT      ?=
ARGS        ?=
export DATASET OUT METHOD HEAD VIDEOS ANNOTATIONS MANIFEST CLIPS_PER_SHARD NUM_GPUS PART RAY_ADDRESS

# Make knows files. Those of OUT=s3://bucket/path are in the mirror of this machine (docs/storage.md).
BUCKET := $(patsubst s3://%,%,$(filter s3://%,$(OUT)))
FOLDER := $(if $(BUCKET),$(or $(MOFO_MIRROR),.)/s3.mirror/$(patsubst %/,%,$(BUCKET)),$(OUT))
ROOT := $(FOLDER)/$(DATASET)
FAILURES = $(ROOT)/failures$(if $(PART),-$(subst /,-of-,$(PART))).jsonl
STAMP := .venv/installed

ifneq ($(words $(DATASET)),1)
  $(error DATASET='$(DATASET)' must be a name without spaces, and not empty)
endif
ifeq ($(strip $(OUT)),)
  $(error OUT must not be empty)
endif
# OUT may have spaces and letters of every alphabet, but no character with a meaning of its own to Make or the shell.
comma := ,
space := $() $()
hash := \#
special := " ' ` \ : % ; | & * ? [ ] ( ) < > = ~ $(hash)
$(foreach each,$(special),$(if $(findstring $(each),$(or $(BUCKET),$(OUT))),$(error OUT='$(OUT)' has the character $(each); choose a name without it)))

# The same as names of files to Make, which escapes spaces.
OUT_FILE := $(subst $(space),\$(space),$(FOLDER))
ROOT_FILE := $(OUT_FILE)/$(DATASET)

ifneq ($(strip $(PART)),)
  ifneq ($(MAKECMDGOALS),flows)
    $(error PART is a share of the work of one goal, flows, but the goals are '$(or $(MAKECMDGOALS),all)')
  endif
endif

# A mistyped name is reported before hours of work, not after them.
GOALS := all help toy manifest doctor flows boxes export verify retry show pretrain finetune scratch evaluate predict report ablation
TOOLS := test test-slow test-lowest bench lint types update-pins .venv
METHODS := $(filter-out optim model,$(sort $(shell sed -nE 's/^\[pretrain\.([a-z0-9_]+)\].*/\1/p' train/recipes/*.toml)))
# Goals that run no command, or more than one.
TAKE_NO_ARGS := all help lint types update-pins .venv
HEADS := mean mca
DATASETS := $(basename $(notdir $(wildcard data_manifests/*.toml)))
VARIABLES := DATASET OUT METHOD HEAD VIDEOS ANNOTATIONS MANIFEST CLIPS_PER_SHARD RAY_ADDRESS NUM_GPUS PART STRICT ARGS PYTHON
# $(call nearest,NAME,KNOWN): the known name that is most like it, if one is.
nearest = $(shell $(PYTHON) -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1))' '$(1)' $(2))
# $(call refuse,WHAT,NAME,KNOWN,MORE): end with an error that lists the known names.
refuse = $(call refuse_with,$(1),$(2),$(3),$(4),$(call nearest,$(2),$(3)))
refuse_with = $(error $(1) '$(2)' is unknown$(if $(5),; did you mean $(5)?,.) Known: $(3)$(4))

$(foreach goal,$(filter-out $(GOALS) $(TOOLS),$(MAKECMDGOALS)),$(if $(findstring /,$(goal)),,$(call refuse,goal,$(goal),$(GOALS) $(TOOLS))))
# Other variables may be meant for the environment, so that only those like one of ours are refused.
given := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
$(foreach name,$(filter-out $(VARIABLES),$(given)),$(if $(call nearest,$(name),$(VARIABLES)),$(call refuse,variable,$(name),$(VARIABLES))))
ifeq ($(filter $(METHOD),$(METHODS))$(findstring --recipe,$(ARGS)),)
  $(call refuse,METHOD,$(METHOD),$(METHODS))
endif
ifneq ($(filter-out $(HEADS),$(HEAD)),)
  $(call refuse,HEAD,$(HEAD),$(HEADS))
endif
# What other machines have put into the bucket is pulled first, so that Make knows what there is.
ifneq ($(and $(BUCKET),$(wildcard $(STAMP)),$(filter-out $(TOOLS) help show,$(or $(MAKECMDGOALS),all))),)
  pulled := $(shell .venv/bin/python -c 'import sys; from pathlib import Path; from shared.errors import user_errors; \
    from shared.layout import DatasetLayout; user_errors(DatasetLayout)(Path(sys.argv[1]), sys.argv[2])' '$(OUT)' '$(DATASET)' 2>&1)
  ifneq ($(.SHELLSTATUS),0)
    $(error $(pulled))
  endif
endif
# A dataset without a TOML is one's own: its videos are named, or its manifest has been made.
ifeq ($(filter $(DATASET),$(DATASETS))$(VIDEOS)$(wildcard $(ROOT_FILE))$(filter $(TOOLS) help toy show ablation,$(MAKECMDGOALS)),)
  $(call refuse,DATASET,$(DATASET),$(DATASETS),; for your own data give VIDEOS=folder)
endif

ifneq ($(strip $(ARGS)),)
  ifneq ($(words $(MAKECMDGOALS)),1)
    $(error ARGS goes to the command of one goal, but the goals are '$(or $(MAKECMDGOALS),all)'; give them one at a time)
  endif
  ifeq ($(filter-out $(TAKE_NO_ARGS),$(filter $(GOALS) $(TOOLS),$(MAKECMDGOALS))),)
    $(error ARGS goes to the command of one goal, and '$(MAKECMDGOALS)' is none that takes it. Known: $(filter-out $(TAKE_NO_ARGS),$(GOALS) $(TOOLS)))
  endif
endif

.DEFAULT_GOAL := all
.NOTPARALLEL:
.PHONY: $(GOALS) $(TOOLS)

# $(call run,MODULE,ARGUMENTS,GOAL): run a command; ARGS reach it only as the goal of the command
# line. Status 3 says that clips were set aside: the count is printed and Make goes on.
goal_args = $(if $(filter $(1),$(MAKECMDGOALS)),$(ARGS))
run = @status=0; $(3) -m $(1) $(2) || status=$$?; \
  if [ $$status -eq 3 ] && [ -z "$(filter-out 0,$(STRICT))" ]; then \
    list="$(FAILURES)"; [ -e "$$list" ] || list="$(ROOT)/failures.jsonl"; count=$$(grep -c . "$$list"); \
    echo "$$count clip$$([ $$count -eq 1 ] || echo s) set aside, see $$list (STRICT=1 stops here)" >&2; \
  elif [ $$status -ne 0 ]; then exit $$status; fi

python := .venv/bin/python
# GPUs that are asked for must be there; with several, one process each.
launch := $(if $(filter-out 0,$(NUM_GPUS)),$(python) -m train.gpus $(NUM_GPUS) && )$(if $(filter-out 0 1,$(NUM_GPUS)),TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 $(python) -m torch.distributed.run --standalone --nproc-per-node $(NUM_GPUS),$(python))
dataset := --dataset "$$DATASET" --out "$$OUT"
videos := $${VIDEOS:+--videos "$$VIDEOS"}

toy_command      = $(call run,preprocess.toy,--out "$$OUT" $(call goal_args,toy),$(python))
manifest_command = $(call run,preprocess.manifest,$(dataset) $(videos) $${ANNOTATIONS:+--annotations "$$ANNOTATIONS"} \
                     $${MANIFEST:+--manifest "$$MANIFEST"} $(call goal_args,manifest),$(python))
# $(call recipe_has,TEXT): whether the table of METHOD in a recipe has a line that begins with TEXT.
recipe_has = $(shell awk -v table='[pretrain.$(METHOD)]' -v text='$(1)' \
  '/^\[/ {inside = index($$0, table) == 1} inside && index($$0, text) == 1 {print "yes"; exit}' train/recipes/*.toml)
# A method that predicts trajectories needs tracks of points, by default through warped flow, which is
# free of the camera's motion (MME, App. A). Flows that have tracks keep them, with or without the
# camera's motion, whatever the method is now. ARGS="--stabilise off" makes others.
track_stabilise = $(shell sed -nE 's/.*("stabilise": "([a-z]+)").*/--stabilise \2/p' "$(ROOT)/flows/dataset.json" | head -1)
# They start where the windows of the recipe need them, or where those that are there do.
track_window = $(shell sed -nE 's/.*("track_window": "([0-9x]+)").*/--track-window \2/p' "$(ROOT)/flows/dataset.json" | head -1)
needed_window = $(if $(findstring --track-,$(ARGS)),,$(shell $(python) -m train.track_window --dataset "$(DATASET)" --out "$(OUT)" --method "$(METHOD)" $(call goal_args,pretrain) 2>/dev/null))
tracks = $(if $(call velocities),$(velocity_tracks),$(if $(shell grep -ls track_length "$(ROOT)/flows/dataset.json"),--trajectories $(track_stabilise) $(track_window),$(or $(if $(call recipe_has,target = "trajectories"),--trajectories --stabilise warp $(needed_window)),$(if $(or $(call recipe_has,mask = {kind = "flow_tube"),$(call recipe_has,mask = {kind = "motion_bins")),$(flow_tracks)))))
# Masks that follow the flow follow the picture, with the camera's motion. They need no shape.
flow_tracks := --trajectories --track-cell 0
# Velocities and motion descriptors need tracks of one step without shape, free of the camera's motion.
velocities = $(or $(call recipe_has,target = {kind = "velocity"),$(call recipe_has,target = {kind = "descriptors"),$(shell grep -ls '"track_length": 1,' "$(ROOT)/flows/dataset.json"))
velocity_points = $(or $(shell sed -nE 's/.*"track_points": ([0-9]+).*/\1/p' "$(ROOT)/flows/dataset.json" 2>/dev/null | head -1),$(if $(filter toy,$(DATASET)),16,64))
velocity_tracks = --trajectories --stabilise subtract --track-length 1 --track-points $(velocity_points) --track-cell 0
# A method that masks along the codec's motion vectors needs those; the same.
vectors = $(if $(filter --source --source=%,$(call goal_args,flows)),,$(if $(or $(call recipe_has,motion_source = "motion-vectors-length"),$(shell ls "$(ROOT)/flows-motion-vectors-length/dataset.json" 2>/dev/null)),--source tvl1$(comma)motion-vectors --lengths))
flows_command    = $(call run,preprocess.flows,$(dataset) $(videos) $(tracks) $(vectors) $${CLIPS_PER_SHARD:+--clips-per-shard "$$CLIPS_PER_SHARD"} \
                     $${NUM_GPUS:+--num-gpus "$$NUM_GPUS"} $${PART:+--part "$$PART"} $(call goal_args,flows),$(python))
boxes_command    = $(call run,preprocess.boxes,$(dataset) $(call goal_args,boxes),$(python))
# $(call names,GOAL,OPTIONS): what ARGS of the goal have of options that name a run.
names = $(filter $(2) $(addsuffix =%,$(2)),$(call goal_args,$(1)))
# METHOD is for a run that ARGS do not name; given beside it, the command says that it takes one.
method = $(if $(and $(call names,$(1),$(2)),$(filter file,$(origin METHOD))),,--method "$$METHOD")
pretrain_command = $(call run,train.pretrain,$(dataset) $(call method,pretrain,--like) $(call goal_args,pretrain),$(launch))
finetune_command = $(call run,train.finetune,$(dataset) $(call method,finetune,--from --like) $${HEAD:+--head "$$HEAD"} \
                     $(call goal_args,finetune),$(launch))

##@ The main job

# The toy dataset knows where its objects are, so its boxes are measured as well.
toy_truth := $(if $(filter toy,$(DATASET)),$(ROOT_FILE)/box_evaluation.json)

# There, the value of pretraining is measured too: the same finetuning starts from random weights.
toy_scratch := $(if $(filter toy,$(DATASET)),scratch)
scratch_run := finetune-scratch-$(or $(HEAD),mean)

all: manifest flows boxes $(toy_truth) pretrain finetune $(toy_scratch) evaluate report  ## Run everything from the manifest to the report. Default: on the toy dataset.

toy: $(STAMP)  ## Render the toy dataset.
	$(toy_command)

manifest: $(STAMP) | $(if $(filter toy,$(DATASET)),$(ROOT_FILE)/annotations/manifest.csv)  ## List all clips: annotation files -> OUT/DATASET/manifest.csv.
	$(manifest_command)

doctor: $(STAMP) | $(ROOT_FILE)/manifest.csv  ## Check which videos are missing, unreadable, too short or stored twice.
	$(call run,preprocess.doctor,$(dataset) $(videos) $(call goal_args,doctor),$(python))

flows: $(STAMP) | $(ROOT_FILE)/manifest.csv  ## Decode the videos and compute motion: videos -> frames/ and flows/ shards.
	$(flows_command)

boxes: $(STAMP) | $(ROOT_FILE)/flows/dataset.json  ## Find motion boxes and tube masks: flows/ -> boxes/ shards.
	$(boxes_command)

export: $(STAMP) | $(ROOT_FILE)/boxes/dataset.json  ## Write the boxes as COCO JSON, Something-Else JSON and CSV.
	$(call run,preprocess.export,$(dataset) $(call goal_args,export),$(python))

# `make flows ARGS="--source none"` makes frames/ alone, with its record; nothing more is made for these.
shards := $(if $(and $(wildcard $(ROOT_FILE)/frames/options.json),$(if $(wildcard $(ROOT_FILE)/flows),,alone)),,$(ROOT_FILE)/flows/dataset.json)

verify: $(STAMP) | $(shards)  ## Check every shard for damage; ARGS=--repair rebuilds damaged shards.
	$(call run,preprocess.verify,$(dataset) $(if $(findstring --repair,$(ARGS)),$(videos)) \
	  $(call goal_args,verify),$(python))

retry: $(STAMP) | $(shards)  ## Process the clips of failures.jsonl again.
	$(call run,preprocess.retry,$(dataset) $(videos) $(call goal_args,retry),$(python))

show: $(STAMP)  ## Draw the motion of any video: make show ARGS="clip.mp4".
	$(if $(strip $(ARGS)),,@echo 'error: name a video: make show ARGS="clip.mp4"' >&2; exit 1)
	@$(python) -m preprocess.show --to "$(FOLDER)/show" $(call goal_args,show)

pretrain: $(STAMP) | $(ROOT_FILE)/boxes/dataset.json  ## Pretrain a masked autoencoder (METHOD=mofo, and others).
	$(pretrain_command)

finetune: $(STAMP) | $(if $(call names,finetune,--from --like),$(ROOT_FILE)/boxes/dataset.json,$(ROOT_FILE)/runs/pretrain-$(METHOD)/finished)  ## Finetune on the labels (HEAD=mean or mca).
	$(finetune_command)

scratch: $(STAMP) | $(ROOT_FILE)/boxes/dataset.json  ## Finetune from random weights, and test, for comparison.
	$(call run,train.finetune,$(dataset) --from none --run $(scratch_run) $${HEAD:+--head "$$HEAD"} \
	  $(call goal_args,scratch),$(launch))
	$(call run,train.evaluate,$(dataset) --run $(scratch_run),$(launch))

evaluate: $(STAMP)  ## Measure the test accuracy of the finetuned model.
	$(call run,train.evaluate,$(dataset) $(call method,evaluate,--run --run-name) $${HEAD:+--head "$$HEAD"} \
	  $(call goal_args,evaluate),$(launch))

# Without a DATASET, somebody else's model is not taken to see clips as the toy recipe does.
predict: $(STAMP)  ## Predict the classes of any videos: make predict ARGS="clip.mp4 ...".
	$(if $(strip $(ARGS)),,@echo 'error: name a video: make predict ARGS="clip.mp4"' >&2; exit 1)
	$(if $(and $(call names,predict,--run),$(filter command,$(origin METHOD) $(origin HEAD))),@echo 'error: METHOD and HEAD name a run and so does --run; give one of them' >&2; exit 1)
	@$(python) -m train.predict --out "$$OUT" $(if $(and $(call names,predict,--run),$(filter file,$(origin DATASET))),,--dataset "$$DATASET") \
	  $(if $(call names,predict,--run),,--run "finetune-$$METHOD-$${HEAD:-mean}") $(call goal_args,predict)

report: $(STAMP)  ## Write OUT/DATASET/report.html with pictures and numbers.
	$(call run,train.report,$(dataset) $(call goal_args,report),$(python))

# What a goal lacks from the one before. Order-only: an existing file is never remade for its age.
$(OUT_FILE)/toy/annotations/manifest.csv: | $(STAMP)
	$(toy_command)
$(ROOT_FILE)/manifest.csv: | $(STAMP) $(if $(filter toy,$(DATASET)),$(ROOT_FILE)/annotations/manifest.csv)
	$(manifest_command)
$(ROOT_FILE)/flows/dataset.json: | $(ROOT_FILE)/manifest.csv
	$(flows_command)
$(ROOT_FILE)/boxes/dataset.json: | $(ROOT_FILE)/flows/dataset.json
	$(boxes_command)
$(OUT_FILE)/toy/box_evaluation.json: $(OUT_FILE)/toy/boxes/dataset.json
	@$(python) -m preprocess.evaluate_boxes --boxes "$(FOLDER)/toy/boxes" --format csv \
	  --annotations "$(FOLDER)/toy/truth/boxes" --json > "$@.tmp" && mv "$@.tmp" "$@"
$(ROOT_FILE)/runs/pretrain-$(METHOD)/finished: | $(ROOT_FILE)/boxes/dataset.json
	$(pretrain_command)

ablation: $(STAMP)  ## Compare all methods on the same toy clips, three seeds each (hours; can be resumed).
	$(call run,benchmarks.ablation,--out "$$OUT/ablation" $(call goal_args,ablation),$(python))

##@ Development

# The longest test takes 3 minutes; one that hangs is ended, and its stack is printed.
fast_tests = -n 2 --dist loadfile --timeout 900

test: $(STAMP)  ## Run the fast tests (at most 8 minutes on two cores).
	@$(python) -m pytest $(fast_tests) $(call goal_args,test)

test-slow: $(STAMP)  ## Run the tests that do real harm or work at scale.
	@$(python) -m pytest -m slow $(call goal_args,test-slow)

test-lowest: $(STAMP) .venv-lowest/installed  ## Run the fast tests with the lowest versions that setup.cfg allows.
	@.venv-lowest/bin/python -m pytest $(fast_tests) $(call goal_args,test-lowest)

bench: $(STAMP)  ## Measure every headline figure beside its peer (15 minutes on two cores).
	@$(python) -m benchmarks.suite $(call goal_args,bench)

lint: .venv/linted  ## Check style and format with ruff.
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types: .venv/linted  ## Check types with mypy.
	@.venv/bin/mypy

##@ Installation

.venv: $(STAMP)  ## Install everything into .venv.

# The stamp is written last: an interrupted installation, or pins newer than it, installs again.
$(STAMP): setup.cfg constraints.txt
	@$(PYTHON) .preflight.py
	@rm -f $(STAMP)
	@test -x $(python) || { echo "making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "installing (several GB of packages, some minutes)"
	@.venv/bin/pip install --disable-pip-version-check --progress-bar off --quiet -c constraints.txt '.[test]'
	@touch $(STAMP)
.venv/linted: $(STAMP)
	@.venv/bin/pip install --disable-pip-version-check --quiet -c constraints.txt '.[lint]'
	@touch .venv/linted

# Of each package of setup.cfg the lowest version that it allows, as constraints: name==version.
.venv-lowest/installed: setup.cfg
	@$(PYTHON) .preflight.py
	@rm -rf .venv-lowest
	@$(PYTHON) -m venv .venv-lowest
	@sed -nE 's/^ +([A-Za-z0-9-]+)(\[[a-z0-9]+\])?>=([0-9.]+)$$/\1==\3/p' setup.cfg | sort -u > .venv-lowest/lowest.txt
	@echo "installing the lowest versions into .venv-lowest (several GB of packages, some minutes)"
	@.venv-lowest/bin/pip install --disable-pip-version-check --progress-bar off --quiet -c .venv-lowest/lowest.txt '.[test]'
	@touch $@

# The newest versions that fit together, of every package and of what these need. Run the tests after it.
update-pins:  ## Write constraints.txt again, with the newest versions.
	@rm -rf build/pins
	@$(PYTHON) -m venv build/pins
	@build/pins/bin/pip install --disable-pip-version-check --progress-bar off --quiet '.[test,lint,bench,wandb]'
	@{ sed -n '/^#/p' constraints.txt; build/pins/bin/pip freeze --disable-pip-version-check --exclude mofo; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@rm -rf build/pins
	@echo "constraints.txt: $$(grep -c == constraints.txt) packages; now run make lint types test"

help:  ## Print this list.
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z.-]+:.*##/ {printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@printf '\nVariables, as in make flows DATASET=ssv2 VIDEOS=/data/ssv2\n'
	@printf '  %-16s %s\n' \
	  DATASET 'Name of a file in data_manifests/, or of your own data. Default: toy.' \
	  VIDEOS 'Folder of the videos. Its subfolders are searched too.' \
	  ANNOTATIONS 'Folder of the official annotation files, as downloaded.' \
	  MANIFEST 'CSV file that lists your own clips.' \
	  OUT 'Folder for all output, or s3://bucket/path. Default: out.' \
	  METHOD 'Pretraining method, a table of the recipe. Default: mofo; velocity on toy.' \
	  HEAD 'Finetuning head: mean or mca. Default: the one of the recipe.' \
	  CLIPS_PER_SHARD 'Number of clips in a shard. Default: 512.' \
	  RAY_ADDRESS 'host:port of a Ray cluster. Default: this machine alone.' \
	  NUM_GPUS 'Number of GPUs for flows and training. Default: one process.' \
	  PART 'A share of the shards of make flows, such as 3/16. Default: all.' \
	  STRICT '1 stops when clips were set aside. Default: make continues.' \
	  ARGS 'More options for the command of the goal; its --help lists them.'
