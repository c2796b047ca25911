"""Retrieval with the embeddings of `OnePeaceRetriever`: ranks, recall, chance.

Recall is in per cent, beside its chance level. A `Rule` says what is a query, and what ties mean:

- "distinct": equal texts, or samples of the same file, are one item: one query and one gallery item,
  which matches everything that any of these samples pairs with it. Ties count against the model: if
  all embeddings are equal, recall is 0.
- "official": each caption is a query and a gallery item of its own, also if another sample has the
  same words, and matches only the image or audio clip of its own sample. Those are one item per file.
  The rule of ONE-PEACE and of published results (COCO, Flickr30K, AudioCaps, Clotho). The official
  code takes the first K of a sort by similarity, in which the order of ties is arbitrary, and equal
  captions of several images tie always. Here a query with ties counts with the probability of a match
  among the first K over all orders of the ties: if all embeddings are equal, recall is its chance
  level.

Shapes: Q queries, G gallery items, U different ones, P matching pairs, D width.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple, get_args

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmonepeace.choices import Rule
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

    Args:
        topk: values of K.
        rule: "distinct" or "official", see above: what is a query, and what ties mean.
        max_similarities: how many are in memory at once.
        kwargs: of `BaseMetric`.

    Raises:
        ValueError: if there is no such rule, or an embedding is not finite.
    """

    default_prefix = "retrieval"

    def __init__(
        self,
        topk: Sequence[int] = (1, 5, 10),
        rule: Rule = "distinct",
        max_similarities: int = MAX_SIMILARITIES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if rule not in get_args(Rule):
            raise ValueError(f"rule is {rule!r}; choose from {', '.join(get_args(Rule))}.")
        self.topk = tuple(topk)
        self.rule: Rule = rule
        self.max_similarities = max_similarities

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the items of each sample."""
        self.results += map(items_of, data_samples)

    def compute_metrics(self, results: Sequence[Mapping[str, Item]]) -> dict[str, float]:
        """The metrics of `summarise`."""
        return summarise(find_directions(results, self.rule, self.max_similarities), self.topk)


class Ranks(NamedTuple):
    """Where the best match of each query is among all items, by similarity."""

    above_Q: Tensor  # items that are more similar
    tied_Q: Tensor  # items that are as similar, the best match included
    matching_Q: Tensor  # those of the tied ones that match

    @property
    def last_Q(self) -> Tensor:
        """Rank of the best match, from 0, after all the tied ones that do not match."""
        return self.above_Q + self.tied_Q - self.matching_Q


class Direction:
    """Queries of one modality, a gallery of another one, and which items match which queries.

    Args:
        pairs: at least one query and a matching item.
        which: modality of the queries, modality of the gallery.
        rule: what is a query, and what ties mean.
        max_similarities: how many are in memory at once.

    Attributes:
        queries, items: identities of the queries and of the gallery.
        query_QD, item_GD: their embeddings; those of equal identities are equal.
        query_P, item_P: indices of the query and of the item of each matching pair.
        rank_Q: rank of the best match of each query, from 0: the last one of its ties by the rule
            "distinct", the first one by "official".
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Item, Item]],
        which: tuple[str, str],
        rule: Rule = "distinct",
        max_similarities: int = MAX_SIMILARITIES,
    ) -> None:
        self.rule = rule
        self.queries, self.query_QD, self.query_P = _distinct(query for query, _ in pairs)
        self.items, item_UD, self.item_P = _distinct(item for _, item in pairs)
        different_G = None
        if rule == "official" and which[0] == "text":
            self.queries = [self.queries[i] for i in self.query_P.tolist()]
            self.query_QD, self.query_P = self.query_QD[self.query_P], torch.arange(len(pairs))
        if rule == "official" and which[1] == "text":
            self.items = [self.items[i] for i in self.item_P.tolist()]
            different_G, self.item_P = self.item_P, torch.arange(len(pairs))
        self.item_GD = item_UD if different_G is None else item_UD[different_G]
        self.ranks = find_ranks(
            self.query_QD, item_UD, self.query_P, self.item_P, max_similarities, different_G
        )
        self.rank_Q = self.ranks.above_Q if rule == "official" else self.ranks.last_Q

    def recall(self, k: int) -> float:
        """Percentage of queries with a match among the `k` most similar items."""
        if self.rule == "distinct":
            return percentage(self.rank_Q < k)
        above_Q, tied_Q, matching_Q = self.ranks
        return percentage(chance(matching_Q, tied_Q, k - above_Q))

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
    samples: Sequence[Mapping[str, Item]],
    rule: Rule = "distinct",
    max_similarities: int = MAX_SIMILARITIES,
) -> dict[tuple[str, str], Direction]:
    """(Modality of the queries, modality of the gallery) -> direction, for all pairs that occur.

    Samples are modality -> item; the items of a sample match each other.
    """
    directions = {}
    names = dict.fromkeys(name for sample in samples for name in sample)
    for a, b in permutations(names, 2):
        pairs = [(sample[a], sample[b]) for sample in samples if a in sample and b in sample]
        if pairs:
            directions[a, b] = Direction(pairs, (a, b), rule, max_similarities)
    return directions


def summarise(
    directions: Mapping[tuple[str, str], Direction], topk: Sequence[int]
) -> dict[str, float]:
    """`A_to_B_R@K` and `A_to_B_R@K_chance` of each direction, their means `mean_R@K` and `r_mean`.

    `r_mean` is the mean over all K as well: of six recalls for two modalities and three K.
    """
    metrics = {}
    for (a, b), direction in directions.items():
        for k in topk:
            metrics[f"{a}_to_{b}_R@{k}"] = direction.recall(k)
            metrics[f"{a}_to_{b}_R@{k}_chance"] = direction.chance(k)
    means = {}
    for k in topk:
        recalls = [metrics[f"{a}_to_{b}_R@{k}"] for a, b in directions]
        means[f"mean_R@{k}"] = sum(recalls) / len(recalls)
    return {**metrics, **means, "r_mean": sum(means.values()) / len(means)}


def items_of(sample: Mapping[str, Any]) -> dict[str, Item]:
    """Modality -> item of a data sample that has `embeddings`."""
    embeddings: Any = sample.get("embeddings")
    return {name: (_identity(name, sample), x.float().cpu()) for name, x in embeddings.items()}


def rank(
    query_QD: Tensor,
    item_GD: Tensor,
    query_P: Tensor,
    item_P: Tensor,
    max_similarities: int = MAX_SIMILARITIES,
) -> Tensor:
    """(Q,) number of items that do not match but are at least as similar as the best match.

    The arguments are those of `find_ranks`.
    """
    return find_ranks(query_QD, item_GD, query_P, item_P, max_similarities).last_Q


def find_ranks(
    query_QD: Tensor,
    item_UD: Tensor,
    query_P: Tensor,
    item_P: Tensor,
    max_similarities: int = MAX_SIMILARITIES,
    different_G: Tensor | None = None,
) -> Ranks:
    """Find where the best match of each query is.

    Args:
        query_QD: embeddings of unit length.
        item_UD: embeddings of unit length of the items that are different.
        query_P: index of the query of each matching pair; every query has one.
        item_P: index of the item of each matching pair.
        max_similarities: how many are in memory at once.
        different_G: row of `item_UD` of each item, so that equal items tie exactly. By default, all
            items are different.

    Raises:
        ValueError: if an embedding is not finite: comparisons with NaN would all be wrong.
    """
    for name, x in (("queries", query_QD), ("items", item_UD)):
        if broken := int((~x.isfinite()).any(1).sum()):
            raise ValueError(
                f"embeddings of {broken:,} of {len(x):,} {name} are not finite. The model diverged "
                "or overflows: look at its losses, and evaluate it in float32 or bfloat16."
            )
    query_P, item_P = torch.stack([query_P, item_P]).unique(dim=1)
    rows = max(max_similarities // len(item_UD if different_G is None else different_G), 1)
    parts = []
    for start, query in zip(range(0, len(query_QD), rows), query_QD.split(rows), strict=True):
        similarity = query @ item_UD.t()
        if different_G is not None:
            similarity = similarity[:, different_G]
        inside = (start <= query_P) & (query_P < start + rows)
        own_P = query_P[inside] - start
        match_P = similarity[own_P, item_P[inside]]
        best = similarity.new_full((len(query),), -torch.inf)
        best = best.scatter_reduce(0, own_P, match_P, "amax")
        above = (similarity > best[:, None]).sum(1)
        tied = (similarity >= best[:, None]).sum(1) - above
        matching = torch.bincount(own_P[match_P == best[own_P]], minlength=len(query))
        parts.append((above, tied, matching))
    return Ranks(*map(torch.cat, zip(*parts, strict=True)))


def chance(matches_Q: Tensor, items: int | Tensor, k: int | Tensor) -> Tensor:
    """(Q,) probability that one of `k` of all `items`, drawn at random, is one of the matches.

    `items` and `k` may be (Q,). It is 0 for a `k` of 0 or less.
    """
    items_Q = torch.as_tensor(items).expand_as(matches_Q).double()
    k_Q = torch.as_tensor(k).expand_as(matches_Q).minimum(items_Q)
    drawn = torch.arange(max(int(k_Q.max()), 0), dtype=torch.float64)
    others_Q = items_Q - matches_Q
    misses = (others_Q[:, None] - drawn).clamp(min=0) / (items_Q[:, None] - drawn)
    return 1 - misses.where(drawn < k_Q[:, None], 1.0).prod(1)


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
