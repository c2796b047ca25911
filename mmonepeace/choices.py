"""What is chosen by name, in calls and on command lines, which show it before anything is imported."""

from typing import Literal

Target = Literal[
    "vision", "official-vision", "full", "official-full", "model", "official-model", "adapter"
]  # fmt: skip
Rule = Literal["distinct", "official"]  # what is a query of retrieval
Feature = Literal["embedding", "cls", "mean", "tokens"]  # of a frozen encoder
Probe = Literal["knn", "linear", "attentive"]
Dtype = Literal["fp32", "float32", "bf16", "bfloat16", "fp16", "float16"]
