#!/bin/sh
# An ONNX file with repeat_interleave of a dynamic count is written without a word, and never runs.
#
# One would guess: torch.onnx.export(dynamo=True) either translates an operator or refuses it. For
# x.repeat_interleave(n, 0), where n is a dynamic length of another input, torch.export has the right
# program, the exporter says nothing and the file passes ONNX's checker.
# What happens: ONNX Runtime fails on every input, that which was traced included: the translation
# takes the count for a constant. With a constant count the file is right, and so is it with a dynamic
# one where the repetition is written as a view: x[:, None].expand(-1, n, -1).flatten(0, 1).
# Who meets it: whoever exports a model that repeats images for each of their texts or candidates,
# or queries for each image of a batch, and looks at the exporter's exit status alone.
# Versions: torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0; seen on 2026-11-30.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - > log 2>&1 <<'PYTHON'
import logging

import onnx
import onnxruntime
import torch
from torch.export import Dim

logging.disable(logging.WARNING)


class Interleaved(torch.nn.Module):
    def forward(self, x, like):
        return x.repeat_interleave(like.shape[0], 0)


class Constant(torch.nn.Module):
    def forward(self, x, like):
        return x.repeat_interleave(3, 0) + like.sum()


class View(torch.nn.Module):
    def forward(self, x, like):
        return x[:, None].expand(-1, like.shape[0], -1).flatten(0, 1)


quiet = onnxruntime.SessionOptions()
quiet.log_severity_level = 4
for module in (Interleaved(), Constant(), View()):
    traced = torch.randn(3, 2), torch.zeros(2, 1)
    sizes = {0: Dim("rows", min=2, max=9)}, {0: Dim("count", min=2, max=9)}
    program = torch.export.export(module, traced, dynamic_shapes=sizes)
    torch.onnx.export(program, dynamo=True, verbose=False).save("it.onnx")
    onnx.checker.check_model("it.onnx", full_check=True)
    session = onnxruntime.InferenceSession("it.onnx", quiet)
    names = [x.name for x in session.get_inputs()]
    for rows, count in ((3, 2), (2, 4)):
        inputs = torch.randn(rows, 2), torch.zeros(count, 1)
        expected = module(*inputs)
        same = torch.equal(program.module()(*inputs), expected)
        try:
            (out,) = session.run(None, dict(zip(names, (x.numpy() for x in inputs))))
            found = "right" if torch.equal(torch.from_numpy(out), expected) else "wrong"
        except Exception as error:
            found = type(error).__name__
        print(f"seen: {type(module).__name__} {rows} x {count}: program {same}, file {found}")
PYTHON
sed -n 's/^seen: //p' log > seen
cat seen
cat > expected <<'SEEN'
Interleaved 3 x 2: program True, file InvalidArgument
Interleaved 2 x 4: program True, file InvalidArgument
Constant 3 x 2: program True, file right
Constant 2 x 4: program True, file right
View 3 x 2: program True, file right
View 2 x 4: program True, file right
SEEN
diff expected seen && echo "as expected"
