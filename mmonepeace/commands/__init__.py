"""The commands of `mmonepeace`, a module each; `tools/*.py` run the same ones from a clone."""

import importlib
import os
from typing import NoReturn

from mmonepeace.engine.processes import exit_distributed

# Name -> what its help says in a line, in the groups of the help of `mmonepeace`.
GROUPS = {
    "train and measure": {
        "train": "fine-tune by a recipe",
        "test": "measure a checkpoint by its recipe",
        "pretrain": "pretrain on pairs by a recipe",
        "distill": "distil a large model into a small one by a recipe",
        "doctor": "check a recipe and all of its data before a run",
        "estimate": "tell what a recipe needs, memory and operations, before a run",
        "show-predictions": "draw predictions beside the ground truth",
    },
    "use a model": {
        "embed": "embed images, sounds and texts into an index",
        "search": "find what in an index is nearest to texts, images or sounds",
        "predict": "answer questions, find phrases, name classes",
        "zero-shot": "classify, or segment, by the names of classes",
        "heatmap": "draw where an image is like a text",
        "demo": "try models in a browser, on this machine",
        "probe": "measure frozen features",
        "evaluate-retrieval": "measure recall between images, texts and sounds",
    },
    "files": {
        "download": "get the official files",
        "convert": "convert checkpoints, official and ours",
        "export": "write a model for ONNX Runtime or torch alone, and measure it",
        "convert-index": "write an index as a Parquet, CSV or NumPy file",
        "convert-tokenizer": "make a tokenizer from the official vocabulary",
        "train-tokenizer": "learn a tokenizer from captions",
    },
}
COMMANDS = [name for group in GROUPS.values() for name in group]


# Turns that a thread of an operator waits for the others before it sleeps, of GNU's OpenMP, whose
# default is 300,000: where another job uses a core, threads then burn the time of the one they wait
# for (benchmarks/ideas.md). Read when PyTorch is imported.
_SPIN_COUNT = 10_000


def run_command(name: str) -> NoReturn:
    """Run a command with the arguments of the command line, and end with its status."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPIN_COUNT))
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    exit_distributed(module.main())
