"""Compare mmonepeace with tensors computed by the official code.

Run:    python tests/parity/check.py FOLDER [--only GLOB]...
Format: FOLDER/CASE/case.json names weights, inputs, outputs and tolerances (safetensors).
Prints: a line per case: name, largest error, tolerance, passed / failed / no rule; then the counts
        and the cases that have no rule yet.
Exit:   0 all passed, 1 a case failed, 2 a --only pattern matches no case with a rule.

Only the public classes and the converter are used, so a pass is a statement about the product.
"""

import argparse
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.parity import (
    rules_data,
    rules_distributed,
    rules_models,
    rules_pretraining,
    rules_vision,
)
from tests.parity.case import Case

# Name pattern of the cases -> rule. The first match decides.
RULES: tuple[tuple[str, Callable[[Case], Any]], ...] = (
    ("rpb_image_2d*", rules_vision.rpb_image_2d),
    ("rpb_geometric_resize*", rules_vision.rpb_geometric_resize),
    ("abs_pos_resize*", rules_vision.abs_pos_resize),
    ("vision_convert*", rules_vision.vision_convert),
    ("vision_seg_backbone*", rules_vision.vision_seg_backbone),
    ("vision_seg_adapter*", rules_vision.vision_seg_adapter),
    ("vision_classify_*", rules_vision.vision_classify),
    ("vision_det_*", rules_vision.vision_det),
    ("vision_video_*", rules_vision.vision_video),
    ("deform_attn*", rules_vision.deform_attn),
    ("encode_*", rules_models.encode),
    ("rpb_token_1d*", rules_vision.rpb_token_1d),
    ("retrieval_*", rules_models.retrieval),
    ("criterion_*_retrieval*", rules_models.criterion_retrieval),
    ("criterion_classify_*", rules_models.criterion_classify),
    ("criterion_hinge*", rules_models.criterion_classify),
    ("criterion_grounding*", rules_models.criterion_grounding),
    ("masked_*", rules_pretraining.masked),
    ("loss_stage*", rules_pretraining.pretraining_loss),
    ("contrastive_gather*", rules_distributed.contrastive_gather),
    ("load_stage1_into_stage2*", rules_pretraining.load_stage1_into_stage2),
    ("head_classify_*", rules_models.head_classify),
    ("classify_*", rules_models.classify),
    ("load_pretrained_*", rules_models.load_pretrained),
    ("layer_decay*", rules_vision.layer_decay),
    ("bpe_text*", rules_data.bpe_text),
    ("mask_statistics*", rules_data.mask_statistics),
    ("audio_preprocess*", rules_data.audio_preprocess),
    ("image_preprocess*", rules_data.image_preprocess),
)


def find_rule(name: str) -> Callable[[Case], Any] | None:
    """The rule for a case, or None."""
    return next((rule for pattern, rule in RULES if fnmatch(name, pattern)), None)


def run_case(root: Path, name: str) -> tuple[str, Case | None]:
    """Check one case.

    Returns:
        "passed", "failed" or "no rule", and the case with its error (None without a rule).
    """
    rule = find_rule(name)
    if rule is None:
        return "no rule", None
    case = Case(root, name)
    try:
        rule(case)
    except Exception as error:  # noqa: BLE001  (one broken case must not hide the others)
        case.failures.append(f"{type(error).__name__}: {error}")
    if not case.comparisons:
        case.failures.append("the case has nothing that its rule compares")
    return "failed" if case.failures else "passed", case


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", metavar="GLOB", default=[])
    args = parser.parse_args()
    names = sorted(path.parent.name for path in args.folder.glob("*/case.json"))
    if not names:
        parser.error(f"{args.folder} has no */case.json")
    for pattern in args.only:
        if not any(fnmatch(name, pattern) and find_rule(name) for name in names):
            parser.error(f"--only {pattern}: no case with a rule matches")
    by_status: dict[str, list[str]] = {"passed": [], "failed": [], "no rule": []}
    for name in names:
        if args.only and not any(fnmatch(name, pattern) for pattern in args.only):
            continue
        status, case = run_case(args.folder, name)
        by_status[status].append(name)
        measured = f"{case.error:10.2e}  atol {case.atol:.0e} rtol {case.rtol:.0e}" if case else ""
        print(f"{name:42} {measured:38} {status}")
        for failure in (case.failures if case else [])[:5]:
            print(f"    {failure}")
    print(", ".join(f"{len(cases)} {status}" for status, cases in by_status.items()))
    if by_status["no rule"]:
        print(f"no rule yet: {', '.join(by_status['no rule'])}")
    return 1 if by_status["failed"] else 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
