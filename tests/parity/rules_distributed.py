"""Parity rules that need several processes."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp

from mmonepeace.engine.processes import exit_distributed
from mmonepeace.models.losses import contrastive

if TYPE_CHECKING:
    from tests.parity.case import Case


def _rank(rank: int, world: int, folder: str, inputs: dict[str, Tensor]) -> None:
    """Loss and gradients of one process, written to a file."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    torch.set_num_threads(1)
    image, text = (inputs[f"{m}_logits"][rank].requires_grad_() for m in ("image", "text"))
    scale = inputs["logit_scale"].clone().requires_grad_()
    with torch.enable_grad():
        # The stored values compare each modality with its own gathered rows: their gradients are
        # in the span of the same modality. Our loss of a modality with itself is the same.
        images, texts = (contrastive(x, x, scale.exp()) for x in (image, text))
        loss = (images.loss + texts.loss) / 2
        loss.backward()
    values = {
        "loss": loss.detach(),
        "i2t_ncorrect": images.a_to_b * len(image),
        "t2i_ncorrect": texts.a_to_b * len(text),
        "grad_image_logits": image.grad,
        "grad_text_logits": text.grad,
        "grad_logit_scale": scale.grad,
    }
    save_file(values, f"{folder}/{rank}.safetensors")
    exit_distributed(0)


def contrastive_gather(case: "Case") -> None:
    """Loss and gradients of each rank, which gathers the embeddings of all."""
    world = case.config["world_size"]
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (world, folder, case.inputs), world, start_method="forkserver")
        ranks = [load_file(Path(folder) / f"{rank}.safetensors") for rank in range(world)]
    case.compare_outputs({name: torch.stack([r[name] for r in ranks]) for name in ranks[0]})
