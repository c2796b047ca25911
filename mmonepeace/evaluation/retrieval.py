"""Retrieval with the embeddings of `OnePeaceRetriever`: ranks, recall, chance.

Recall is in per cent, beside its chance level. Ties count against the model: if all embeddings are
equal, recall is 0.

Shapes: Q queries, G gallery items, P matching pairs, D width.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmonepeace.datasets.pairs import PATH_KEYS, RECORD_KEYS
from mmonepeace.registry import METRICS

MAX_SIMILARITIES = 2**26  # in memory at once
Item = tuple[Any, Tensor]  # identity, embedding
# Keys of a data sample that identify its item of a modality; the first that it has counts.
IDENTITIES = {
    name: (key, "key", "sample_idx") if key in PATH_KEYS else (key,)
    for name, key in RECORD_KEYS.items()
}


@METRICS.register_module()
class RecallAtK(BaseMetric):
    """Percentage of queries with a match among the K most similar items, in each direction.

    Samples with the same text, or the same file, share one item: it is one query and one gallery
    item, and it matches everything that any of these samples pairs with it.

    Args:
        topk: values of K.
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
        """The metrics of `summarise`."""
        return summarise(find_directions(results, self.max_similarities), self.topk)


class Direction:
    """Queries of one modality, a gallery of another one, and which items match which queries.

    Made from at least one pair of a query and a matching item; equal identities are one of them.

    Attributes:
        queries, items: identities of the queries and of the gallery.
        query_QD, item_GD: their embeddings.
        query_P, item_P: indices of the query and of the item of each matching pair.
        rank_Q: rank of the best match of each query, from 0; see `rank`.
    """

    def __init__(
        self, pairs: Sequence[tuple[Item, Item]], max_similarities: int = MAX_SIMILARITIES
    ) -> None:
        self.queries, self.query_QD, self.query_P = _distinct(query for query, _ in pairs)
        self.items, self.item_GD, self.item_P = _distinct(item for _, item in pairs)
        self.rank_Q = rank(self.query_QD, self.item_GD, self.query_P, self.item_P, max_similarities)

    def recall(self, k: int) -> float:
        """Percentage of queries with a match among the `k` most similar items."""
        return percentage(self.rank_Q < k)

    def chance(self, k: int) -> float:
        """Expected `recall` if the items were drawn at random."""
        matches_Q = torch.stack([self.query_P, self.item_P]).unique(dim=1)[0].bincount()
        return percentage(chance(matches_Q, len(self.items), k))

    def best(self, query: int, k: int) -> list[tuple[int, float, bool]]:
        """The `k` most similar items of a query: index, cosine, whether it matches; best first."""
        cosines, items = (self.item_GD @ self.query_QD[query]).topk(min(k, len(self.items)))
        matches = set(self.item_P[self.query_P == query].tolist())
        pairs = zip(items.tolist(), cosines.tolist(), strict=True)
        return [(item, cosine, item in matches) for item, cosine in pairs]


def find_directions(
    samples: Sequence[Mapping[str, Item]], max_similarities: int = MAX_SIMILARITIES
) -> dict[tuple[str, str], Direction]:
    """(Modality of the queries, modality of the gallery) -> direction, for all pairs that occur.

    Samples are modality -> item; the items of a sample match each other.
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
        recalls = [direction.recall(k) for direction in directions.values()]
        metrics[f"mean_R@{k}"] = sum(recalls) / len(recalls)
    return metrics


def items_of(sample: Mapping[str, Any]) -> dict[str, Item]:
    """Modality -> item of a data sample that has `embeddings`."""
    embeddings: Any = sample.get("embeddings")
    return {name: (_identity(name, sample), x.cpu()) for name, x in embeddings.items()}


def rank(
    query_QD: Tensor,
    item_GD: Tensor,
    query_P: Tensor,
    item_P: Tensor,
    max_similarities: int = MAX_SIMILARITIES,
) -> Tensor:
    """(Q,) number of items that do not match but are at least as similar as the best match.

    Embeddings are of unit length. `query_P` and `item_P` are the indices of the query and the item
    of each matching pair; every query has one. `max_similarities` are in memory at once.
    """
    rows = max(max_similarities // len(item_GD), 1)
    ranks = []
    for start, query in zip(range(0, len(query_QD), rows), query_QD.split(rows), strict=True):
        similarity = query @ item_GD.t()
        inside = (start <= query_P) & (query_P < start + rows)
        matches = torch.zeros_like(similarity, dtype=torch.bool)
        matches[query_P[inside] - start, item_P[inside]] = True
        best = similarity.masked_fill(~matches, -torch.inf).amax(1, keepdim=True)
        ranks.append(((similarity >= best) & ~matches).sum(1))
    return torch.cat(ranks)


def chance(matches_Q: Tensor, items: int, k: int) -> Tensor:
    """(Q,) probability that one of `k` of all `items`, drawn at random, is one of the matches."""
    drawn = torch.arange(min(k, items), dtype=torch.float64)
    others_Q = (items - matches_Q).double()
    return 1 - ((others_Q[:, None] - drawn).clamp(min=0) / (items - drawn)).prod(1)


def percentage(fraction_Q: Tensor) -> float:
    """The mean, in per cent."""
    return 100 * fraction_Q.double().mean().item()


def _identity(modality: str, sample: Mapping[str, Any]) -> Any:
    keys = IDENTITIES[modality]
    for key in keys:
        if sample.get(key) is not None:
            return sample.get(key)  # a data sample has no []
    raise KeyError(
        f"a data sample has none of {', '.join(keys)}, which identify its {modality}. Add them to "
        "meta_keys of PackModalities."
    )


def _distinct(items: Iterable[Item]) -> tuple[list[Any], Tensor, Tensor]:
    """The distinct identities, their embeddings, and for each item the index of its identity."""
    indices: dict[Any, int] = {}
    embeddings, index_P = [], []
    for identity, embedding in items:
        if identity not in indices:
            indices[identity] = len(indices)
            embeddings.append(embedding)
        index_P.append(indices[identity])
    return list(indices), torch.stack(embeddings), torch.tensor(index_P)
