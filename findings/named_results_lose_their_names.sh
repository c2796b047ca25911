#!/bin/sh
# A metric of MMEngine gets its NamedTuple results back as plain tuples; dataclasses stay.
#
# One would guess: what `process` appends to `self.results` is what `compute_metrics` gets, in one
# process at least, where nothing has to be sent anywhere.
# What happens: the results are rebuilt to move tensors to the CPU, and each tuple of any type comes
# back as a plain one: result.score raises AttributeError, at the end of the first evaluation. Lists
# and dicts are rebuilt too, as such; objects of other classes are passed on as they are, with the
# tensors inside where they were.
# Who meets it: whoever gives names to the parts of a result in a metric of their own.
# Versions: onedl-mmengine 0.10.12, torch 2.13.0, numpy 2.2.6; seen on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch===2.13.0 onedl-mmengine==0.10.12 numpy==2.2.6
"$folder/venv/bin/python" - 2> "$folder/errors" > "$folder/seen" <<'PYTHON'
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from mmengine.evaluator import BaseMetric


class Named(NamedTuple):
    score: float
    label: int


@dataclass
class Data:
    score: float
    label: int


class Metric(BaseMetric):
    default_prefix = "demo"

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        kinds = [type(result).__name__ for result in results]
        return {"kinds": kinds, "has names": [hasattr(result, "score") for result in results]}


metric = Metric()
given = [Named(0.5, 1), Data(0.5, 1), OrderedDict(score=0.5)]
metric.process(None, given)
print("given:", [type(result).__name__ for result in given])
for name, value in metric.evaluate(3).items():
    print(f"{name}: {value}")
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
given: ['Named', 'Data', 'OrderedDict']
demo/kinds: ['tuple', 'Data', 'dict']
demo/has names: [False, True, False]
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
