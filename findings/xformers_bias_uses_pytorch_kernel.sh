#!/bin/sh
# Attention with a bias tensor in xformers is computed by PyTorch's own kernel.
#
# One would guess: xformers brings kernels of its own, so memory_efficient_attention with a tensor as
# attn_bias is faster, or takes less memory, than scaled_dot_product_attention with a mask.
# What happens: of all its operators, one can train with a tensor bias, and it calls
# aten._efficient_attention_forward and _backward, the kernels that scaled_dot_product_attention uses for
# such masks on GPUs. What else it has takes no bias, or only computes forward. The gradient of a bias
# that broadcasts is refused there, which PyTorch's own function allows.
# Who meets it: whoever installs xformers for a model with relative position biases (BEiT, ONE-PEACE, Swin,
# T5), or reports that it changed nothing.
# Versions: xformers 0.0.35, torch 2.10.0, which it was built for; seen on 2026-11-30.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.10.0 xformers==0.0.35 numpy==2.2.6
"$folder/venv/bin/python" -W ignore - > "$folder/seen" 2> "$folder/log" <<'PYTHON'
import torch
from xformers.ops import fmha

for what, operators in (("forward", fmha.ALL_FW_OPS), ("backward", fmha.ALL_BW_OPS)):
    for operator in operators:
        if torch.Tensor in operator.SUPPORTED_ATTN_BIAS_TYPES:
            print(f"{what}, with a tensor as bias: {operator.NAME}, {operator.OPERATOR}")
q = torch.randn(2, 16, 4, 32, requires_grad=True)
shared = torch.zeros(1, 4, 16, 16, requires_grad=True)
inputs = fmha.Inputs(query=q, key=q, value=q, attn_bias=shared)
reasons = fmha.cutlass.BwOp.not_supported_reasons(inputs)
print("a bias that broadcasts:", *(r.split("(")[0].strip() for r in reasons if "Broadcasting" in r))
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
forward, with a tensor as bias: cutlassF-pt, aten._efficient_attention_forward
forward, with a tensor as bias: triton_splitKF, True
backward, with a tensor as bias: cutlassB-pt, aten._efficient_attention_backward
a bias that broadcasts: Broadcasting the `attn_bias` tensor is not supported
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
