"""Retrieval and zero-shot classification with the embeddings of `OnePeaceRetriever`.

All numbers are in per cent, and each comes with its chance level. Ties count against the model: one
that gives the same embedding to everything scores nothing.

Shapes: Q queries, G items of a gallery, P pairs, C classes, T templates, D width.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmonepeace.datasets.pairs import FILES, KEYS
from mmonepeace.registry import HOOKS, METRICS, TRANSFORMS

MAX_SIMILARITIES = 2**26  # in memory at once
Item = tuple[Any, Tensor]  # what tells it apart from others, its embedding
# What tells items of a modality apart: the first of these that a data sample has.
IDENTITIES = {
    name: (key, "key", "sample_idx") if key in FILES else (key,) for name, key in KEYS.items()
}


@METRICS.register_module()
class RecallAtK(BaseMetric):
    """Share of queries with a right answer among the K most similar items, in each direction.

    Samples with an equal text, or the same file, share one item. It is asked for once and stands in
    the gallery once, and whatever any of these samples pairs with it is a right answer.

    Args:
        topk: the numbers K.
        max_similarities: how many are in memory at once.
        kwargs: of `BaseMetric`.
    """

    default_prefix = "retrieval"

    def __init__(
        self,
        topk: Sequence[int] = (1, 5, 10),
        max_similarities: int = MAX_SIMILARITIES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.topk = tuple(topk)
        self.max_similarities = max_similarities

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the items of each sample."""
        self.results += map(items_of, data_samples)

    def compute_metrics(self, results: Sequence[Mapping[str, Item]]) -> dict[str, float]:
        """See `summarise`."""
        return summarise(find_directions(results, self.max_similarities), self.topk)


@METRICS.register_module()
class ZeroShotAccuracy(BaseMetric):
    """Share of samples whose class has one of the K most similar prompts.

    `ClassPromptHook` embeds the prompts, so it must be among the hooks.

    Args:
        tokenize: config of the transform that turns a text into ids, a `Tokenize`.
        modality: what is classified.
        classes: their names. None takes all that the samples of the data set have.
        templates: prompts; {} stands for the name. A class is the mean of its prompts.
        label_key: entry of a data sample that names its class.
        topk: the numbers K.
        batch_size: number of prompts that are embedded together.
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
        faulty = [template for template in templates if "{}" not in template]
        if faulty or not templates:
            raise ValueError(f"templates are {tuple(templates)}; each needs {{}} for the class.")
        self.tokenize = TRANSFORMS.build(tokenize)
        self.modality = modality
        self.classes = None if classes is None else list(classes)
        self.templates = tuple(templates)
        self.label_key = label_key
        self.topk = tuple(topk)
        self.batch_size = batch_size
        self.numbers: dict[str, int] = {}  # class -> row of `class_CD`
        self.class_CD: Tensor | None = None

    @torch.no_grad()
    def embed_classes(self, model: nn.Module, dataset: Any) -> None:
        """Embed the prompts of all classes.

        Args:
            model: an `OnePeaceRetriever` in evaluation mode.
            dataset: that of the evaluation; only asked if there are no `classes`.
        """
        names = self.classes
        if names is None:
            infos = map(dataset.get_data_info, range(len(dataset)))
            names = sorted({info[self.label_key] for info in infos})
        prompts = [t.replace("{}", name) for name in names for t in self.templates]
        ids = [self.tokenize({"text": prompt})["inputs"]["text"] for prompt in prompts]
        parts = []
        for start in range(0, len(ids), self.batch_size):
            batch = {"inputs": {"text": ids[start : start + self.batch_size]}}
            parts.append(model(model.data_preprocessor(batch)["inputs"])["text"])
        mean_CD = torch.cat(parts).unflatten(0, (len(names), len(self.templates))).mean(1)
        self.class_CD = F.normalize(mean_CD, dim=-1)
        self.numbers = {name: number for number, name in enumerate(names)}

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rank of the right class, from 0, for each sample."""
        if self.class_CD is None:
            raise RuntimeError(
                "ZeroShotAccuracy has no embeddings of its classes. Add "
                "dict(type='mmonepeace.ClassPromptHook') to custom_hooks."
            )
        labels = [sample[self.label_key] for sample in data_samples]
        unknown = sorted(set(labels) - set(self.numbers))
        if unknown:
            raise ValueError(
                f"{len(unknown)} labels are no class, the first is {unknown[0]!r}. The "
                f"{len(self.numbers)} classes are {', '.join(list(self.numbers)[:5])}, ... Correct "
                "classes or label_key."
            )
        query_QD = torch.stack([sample["embeddings"][self.modality] for sample in data_samples])
        number_Q = torch.tensor([self.numbers[label] for label in labels], device=query_QD.device)
        own_Q = torch.arange(len(number_Q), device=query_QD.device)
        self.results += rank(query_QD, self.class_CD, own_Q, number_Q).tolist()

    def compute_metrics(self, results: Sequence[int]) -> dict[str, float]:
        """`topK` and `topK_chance`."""
        rank_Q, number = torch.tensor(results), len(self.numbers)
        metrics = {}
        for k in self.topk:
            metrics[f"top{k}"] = _percent(rank_Q < k)
            metrics[f"top{k}_chance"] = 100 * min(k / number, 1.0)
        return metrics


@HOOKS.register_module()
class ClassPromptHook(Hook):
    """Embed the prompts of each `ZeroShotAccuracy` when an evaluation begins."""

    def before_val_epoch(self, runner: Runner) -> None:
        """With the weights of this moment."""
        _embed_classes(runner, runner.val_loop)

    def before_test_epoch(self, runner: Runner) -> None:
        """The same before a test."""
        _embed_classes(runner, runner.test_loop)


def _embed_classes(runner: Runner, loop: Any) -> None:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    model.eval()
    for metric in loop.evaluator.metrics:
        if isinstance(metric, ZeroShotAccuracy):
            metric.embed_classes(model, loop.dataloader.dataset)


class Direction:
    """Queries of one modality, a gallery of another one, and what is right.

    Args:
        pairs: a query and an item that is right for it, at least one pair. Equal identities are one
            query, or one item.
        max_similarities: how many are in memory at once.

    Attributes:
        queries: identities of the queries.
        items: identities of the gallery.
        query_QD: embeddings of the queries.
        item_GD: those of the gallery.
        query_P: number of the query of each right pair.
        item_P: number of its item.
        rank_Q: see `rank`.
    """

    def __init__(
        self, pairs: Sequence[tuple[Item, Item]], max_similarities: int = MAX_SIMILARITIES
    ) -> None:
        self.queries, self.query_QD, self.query_P = _distinct(query for query, _ in pairs)
        self.items, self.item_GD, self.item_P = _distinct(item for _, item in pairs)
        self.rank_Q = rank(self.query_QD, self.item_GD, self.query_P, self.item_P, max_similarities)

    def recall(self, k: int) -> float:
        """Per cent of queries with a right answer among the `k` most similar items."""
        return _percent(self.rank_Q < k)

    def chance(self, k: int) -> float:
        """What `recall` would be if the items were drawn at random."""
        right_Q = torch.stack([self.query_P, self.item_P]).unique(dim=1)[0].bincount()
        return _percent(chance(right_Q, len(self.items), k))

    def best(self, query: int, k: int) -> list[tuple[int, float, bool]]:
        """The `k` most similar items of a query, best first: number, cosine, whether it is right."""
        cosines, items = (self.item_GD @ self.query_QD[query]).topk(min(k, len(self.items)))
        right = set(self.item_P[self.query_P == query].tolist())
        pairs = zip(items.tolist(), cosines.tolist(), strict=True)
        return [(item, cosine, item in right) for item, cosine in pairs]


def find_directions(
    samples: Sequence[Mapping[str, Item]], max_similarities: int = MAX_SIMILARITIES
) -> dict[tuple[str, str], Direction]:
    """Every way to ask with one modality for another, between samples that have both.

    Args:
        samples: modality -> item; what a sample holds belongs together.
        max_similarities: how many are in memory at once.

    Returns:
        (modality of the queries, modality of the gallery) -> direction.
    """
    directions = {}
    names = dict.fromkeys(name for sample in samples for name in sample)
    for a, b in permutations(names, 2):
        pairs = [(sample[a], sample[b]) for sample in samples if a in sample and b in sample]
        if pairs:
            directions[a, b] = Direction(pairs, max_similarities)
    return directions


def summarise(
    directions: Mapping[tuple[str, str], Direction], topk: Sequence[int]
) -> dict[str, float]:
    """`A_to_B_R@K` and `A_to_B_R@K_chance` of each direction, and `mean_R@K` of all."""
    metrics = {}
    for (a, b), direction in directions.items():
        for k in topk:
            metrics[f"{a}_to_{b}_R@{k}"] = direction.recall(k)
            metrics[f"{a}_to_{b}_R@{k}_chance"] = direction.chance(k)
    for k in topk:
        found = [direction.recall(k) for direction in directions.values()]
        metrics[f"mean_R@{k}"] = sum(found) / len(found)
    return metrics


def items_of(sample: Mapping[str, Any]) -> dict[str, Item]:
    """Modality -> item of a data sample that has `embeddings`."""
    embeddings = sample.get("embeddings")
    return {name: (_identity(name, sample), x.cpu()) for name, x in embeddings.items()}


def rank(
    query_QD: Tensor,
    item_GD: Tensor,
    query_P: Tensor,
    item_P: Tensor,
    max_similarities: int = MAX_SIMILARITIES,
) -> Tensor:
    """Wrong items that are at least as similar as the best right one, for each query.

    Args:
        query_QD: unit vectors.
        item_GD: unit vectors.
        query_P: number of the query of each right pair; every query has one.
        item_P: number of its item.
        max_similarities: how many are in memory at once.

    Returns:
        (Q,) int64, 0 is the best.
    """
    rows = max(max_similarities // len(item_GD), 1)
    ranks = []
    for start, query in zip(range(0, len(query_QD), rows), query_QD.split(rows), strict=True):
        similarity = query @ item_GD.t()
        inside = (start <= query_P) & (query_P < start + rows)
        right = torch.zeros_like(similarity, dtype=torch.bool)
        right[query_P[inside] - start, item_P[inside]] = True
        best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        ranks.append(((similarity >= best) & ~right).sum(1))
    return torch.cat(ranks)


def chance(right_Q: Tensor, items: int, k: int) -> Tensor:
    """Probability that one of `k` items drawn at random is among the right ones of a query.

    Args:
        right_Q: number of right items.
        items: number of all.
        k: number drawn.
    """
    drawn = torch.arange(min(k, items), dtype=torch.float64)
    wrong_Q = (items - right_Q).double()
    return 1 - ((wrong_Q[:, None] - drawn).clamp(min=0) / (items - drawn)).prod(1)


def _identity(modality: str, sample: Mapping[str, Any]) -> Any:
    keys = IDENTITIES[modality]
    for key in keys:
        if sample.get(key) is not None:
            return sample.get(key)  # a data sample has no []
    raise KeyError(
        f"a data sample has none of {', '.join(keys)}, which tell its {modality} from others. Add "
        "them to meta_keys of PackModalities."
    )


def _distinct(items: Iterable[Item]) -> tuple[list[Any], Tensor, Tensor]:
    """The distinct identities, their embeddings, and for each item the row of its own."""
    rows: dict[Any, int] = {}
    embeddings, row_P = [], []
    for identity, embedding in items:
        if identity not in rows:
            rows[identity] = len(rows)
            embeddings.append(embedding)
        row_P.append(rows[identity])
    return list(rows), torch.stack(embeddings), torch.tensor(row_P)


def _percent(share_Q: Tensor) -> float:
    return 100 * share_Q.double().mean().item()
