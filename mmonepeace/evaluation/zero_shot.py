"""Zero-shot classification with the embeddings of `OnePeaceRetriever`, as a metric.

Shapes: Q samples, C classes, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from mmonepeace.evaluation.prompt_ensemble import check_templates, embed_classes
from mmonepeace.evaluation.retrieval import percentage, rank
from mmonepeace.registry import HOOKS, METRICS, TRANSFORMS


@METRICS.register_module()
class ZeroShotAccuracy(BaseMetric):
    """Percentage of samples whose class is among the K most similar classes.

    `ClassPromptHook` embeds the classes, so it must be among the hooks.

    Args:
        tokenize: config of the transform that turns a text into ids, a `Tokenize`.
        modality: what is classified.
        classes: their names. None takes all that the samples of the data set have.
        templates: prompts; {} stands for the name. A class is the mean of its prompts.
        label_key: key of a data sample for the name of its class.
        topk: values of K.
        batch_size: prompts that are embedded together.
        kwargs: of `BaseMetric`.
    """

    default_prefix = "zero_shot"

    def __init__(
        self,
        tokenize: dict[str, Any],
        modality: str,
        classes: Sequence[str] | None = None,
        templates: Sequence[str] = ("{}",),
        label_key: str = "text",
        topk: Sequence[int] = (1, 5),
        batch_size: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_templates(templates)
        self.tokenize = TRANSFORMS.build(tokenize)
        self.modality = modality
        self.classes = None if classes is None else list(classes)
        self.templates = tuple(templates)
        self.label_key = label_key
        self.topk = tuple(topk)
        self.batch_size = batch_size
        self.class_indices: dict[str, int] = {}  # name -> row of `class_CD`
        self.class_CD: Tensor | None = None

    @torch.no_grad()
    def embed_classes(self, model: BaseModel, dataset: Any) -> None:
        """Embed the prompts of all classes with an `OnePeaceRetriever` in evaluation mode.

        The data set of the evaluation is only used if `classes` is None.
        """

        def encode(prompts: list[str]) -> Tensor:
            ids = [self.tokenize({"text": prompt})["inputs"]["text"] for prompt in prompts]
            embeddings = []
            for start in range(0, len(ids), self.batch_size):
                batch = {"inputs": {"text": ids[start : start + self.batch_size]}}
                embeddings.append(model(model.data_preprocessor(batch)["inputs"])["text"])
            return torch.cat(embeddings)

        names = self.classes
        if names is None:
            infos = map(dataset.get_data_info, range(len(dataset)))
            names = sorted({info[self.label_key] for info in infos})
        self.class_CD = embed_classes(encode, names, self.templates)
        self.class_indices = {name: index for index, name in enumerate(names)}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rank of the correct class, from 0, for each sample."""
        if self.class_CD is None:
            raise RuntimeError(
                "ZeroShotAccuracy has no embeddings of its classes. Add "
                "dict(type='mmonepeace.ClassPromptHook') to custom_hooks."
            )
        labels = [sample[self.label_key] for sample in data_samples]
        unknown = sorted(set(labels) - set(self.class_indices))
        if unknown:
            raise ValueError(
                f"{len(unknown)} labels are not classes, the first is {unknown[0]!r}. The "
                f"{len(self.class_indices)} classes are {', '.join(list(self.class_indices)[:5])}, "
                "... Correct classes or label_key."
            )
        query_QD = torch.stack([sample["embeddings"][self.modality] for sample in data_samples])
        class_Q = torch.tensor([self.class_indices[x] for x in labels], device=query_QD.device)
        sample_Q = torch.arange(len(class_Q), device=query_QD.device)
        self.results += rank(query_QD, self.class_CD, sample_Q, class_Q).tolist()

    def compute_metrics(self, results: Sequence[int]) -> dict[str, float]:
        """`topK` and `topK_chance`."""
        rank_Q = torch.tensor(results)
        metrics = {}
        for k in self.topk:
            metrics[f"top{k}"] = percentage(rank_Q < k)
            metrics[f"top{k}_chance"] = 100 * min(k / len(self.class_indices), 1.0)
        return metrics


@HOOKS.register_module()
class ClassPromptHook(Hook):
    """Embed the classes of each `ZeroShotAccuracy` when an evaluation begins."""

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        if mode == "train":
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.eval()
        loop = runner.val_loop if mode == "val" else runner.test_loop
        for metric in loop.evaluator.metrics:
            if isinstance(metric, ZeroShotAccuracy):
                metric.embed_classes(model, loop.dataloader.dataset)
