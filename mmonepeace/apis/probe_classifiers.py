"""Classifiers on frozen features: k-NN, logistic regression, attention pooling.

Each `fit_*` function is a generator over the values of one hyperparameter, its settings. It takes

    train: features of the training items; tokens for attention pooling, pooled ones for the others,
    y_N: their classes, from 0 on,
    queries: sets of features to classify,
    settings: values to try, one after the other,
    options: see `Options`.

Shapes: N training items, B of them, Q queries, T tokens, D width, C classes, H learned queries.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.apis.vector_search import search
from mmonepeace.console import progress_bar
from mmonepeace.datasets.feature_shards import Features

TEMPERATURE = 0.07  # of the softmax over neighbours
CHUNK = 1024  # queries compared at once

LBFGS_STEPS = 2000
MAX_GRADIENT = 1e-5  # up to which the loss counts as minimal

BATCH_SIZE = 64
EPOCHS, MIN_STEPS = 20, 400
WARM_UP = 0.1  # fraction of the steps
WEIGHT_DECAY = 0.1


class Options(NamedTuple):
    """What all settings share."""

    num_heads: int = 1  # of attention pooling
    epochs: int | None = None  # of attention pooling; None is 20, or as many as give 400 steps
    seed: int = 0  # of anything random
    device: torch.device | str = "cpu"  # where to fit


class Fitted(NamedTuple):
    """Predictions of a classifier with one setting."""

    setting: float
    probabilities: list[np.ndarray]  # for each set of queries, (Q, C)
    converged: bool | None = None  # to the minimum; None for classifiers that do not seek one


def fit_knn(
    train: Features, y_N: Tensor, queries: list[Features], settings: list[float], options: Options
) -> Iterator[Fitted]:
    """Exact k-NN by cosine: neighbours vote for their classes, weighted with exp(cosine / 0.07).

    The settings are values of k; above N they are N. Source: arXiv 1805.01978 and 2104.14294.
    """
    vectors = F.normalize(train.vectors()).numpy()
    neighbours = []
    for features in queries:
        chunks = F.normalize(features.vectors()).split(CHUNK)
        nearest = [search(chunk, vectors, int(max(settings))) for chunk in chunks]
        neighbours.append([torch.from_numpy(np.concatenate(x)) for x in zip(*nearest, strict=True)])
    for k in map(int, settings):
        probabilities = []
        for cosines_QK, items_QK in neighbours:
            weights_QK = (cosines_QK[:, :k].double() / TEMPERATURE).softmax(1)
            votes_QC = weights_QK.new_zeros(len(weights_QK), int(y_N.max()) + 1)
            votes_QC.scatter_add_(1, y_N[items_QK[:, :k]], weights_QK)
            probabilities.append(votes_QC.numpy())
        yield Fitted(k, probabilities)


def fit_linear(
    train: Features, y_N: Tensor, queries: list[Features], settings: list[float], options: Options
) -> Iterator[Fitted]:
    """Logistic regression on standardised features: the minimum of mean loss + |W|^2 / (2 C N).

    Full-batch L-BFGS in double precision, preconditioned: in its coordinates the curvature is about
    the same in all directions, which leaves the minimum where it is and takes fewer steps.

    The settings are values of C. Ascending ones are fastest, as each starts from the last solution.
    """
    x_ND = train.vectors().to(options.device, torch.float64)
    y_N = y_N.to(options.device)
    mean, std = x_ND.mean(0), x_ND.std(0, correction=0)
    std = std.clamp_min(float(std.max()) * 1e-6 or 1.0)  # rounding is not a signal
    x_ND = (x_ND - mean) / std
    curvature, axes_DD = torch.linalg.eigh(x_ND.T @ x_ND / len(y_N))
    x_ND = x_ND @ axes_DD
    sets = [(features.vectors().to(x_ND) - mean) / std @ axes_DD for features in queries]
    num_classes = int(y_N.max()) + 1
    weight_DC = x_ND.new_zeros(x_ND.shape[1], num_classes)
    bias_C = x_ND.new_zeros(num_classes, requires_grad=True)
    for c in settings:
        decay = 1 / (c * len(y_N))
        scale_D = (curvature.clamp_min(0) / num_classes + decay).rsqrt()
        scaled_DC = (weight_DC / scale_D[:, None]).requires_grad_()
        loss = partial(_regression_loss, scaled_DC, bias_C, x_ND * scale_D, y_N, scale_D, decay)
        optimiser = torch.optim.LBFGS(
            [scaled_DC, bias_C],
            max_iter=LBFGS_STEPS,
            history_size=20,
            tolerance_grad=MAX_GRADIENT / 10,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
        optimiser.step(loss)
        loss()
        gradient = max(float(x.grad.abs().max()) for x in (scaled_DC, bias_C))
        with torch.no_grad():
            weight_DC = scaled_DC * scale_D[:, None]
            probabilities = [(x_QD @ weight_DC + bias_C).softmax(1).cpu().numpy() for x_QD in sets]
        yield Fitted(c, probabilities, gradient <= MAX_GRADIENT)


def fit_attentive(
    train: Features, y_N: Tensor, queries: list[Features], settings: list[float], options: Options
) -> Iterator[Fitted]:
    """`AttentiveProbe` trained by AdamW with warm-up and cosine decay; settings: learning rates."""
    batches = math.ceil(len(train) / BATCH_SIZE)
    epochs = options.epochs or max(EPOCHS, math.ceil(MIN_STEPS / batches))
    steps = epochs * batches

    def load(features: Features, items: Tensor) -> list[Tensor]:
        return [x.to(options.device) for x in features.sequences(items)]

    def factor(step: int) -> float:
        warm = min(1, (step + 1) / (WARM_UP * steps))
        return warm * (1 + math.cos(math.pi * step / steps)) / 2

    for rate in settings:
        generator = torch.Generator().manual_seed(options.seed)
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            probe = AttentiveProbe(train.embed_dim, options.num_heads, int(y_N.max()) + 1)
        probe.to(options.device)
        optimiser = torch.optim.AdamW(probe.parameters(), rate, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        with progress_bar(total=steps, desc=f"learning rate {rate:g}", leave=False) as bar:
            for _ in range(epochs):
                order = torch.randperm(len(train), generator=generator)
                for items in order.tensor_split(batches):
                    logits = probe(*load(train, items))
                    optimiser.zero_grad()
                    F.cross_entropy(logits, y_N[items].to(options.device)).backward()
                    optimiser.step()
                    schedule.step()
                    bar.update()
        probabilities = []
        with torch.no_grad():
            probe.eval()
            for features in queries:
                chunks = torch.arange(len(features)).split(BATCH_SIZE)
                logits = torch.cat([probe(*load(features, items)) for items in chunks])
                probabilities.append(logits.softmax(1).cpu().numpy())
        yield Fitted(rate, probabilities)


class AttentiveProbe(nn.Module):
    """Attention pooling by learned queries, one for each head, and a linear classifier.

    Tokens have mean 0 and variance 1, as `extract_features` stores them. The gain and bias of a
    LayerNorm, and a projection of keys, would add nothing: queries and values absorb them.

    Source: the efficient probing of arXiv 2506.10178, and the normalisation in front of the
    classifier of arXiv 2111.06377.
    """

    def __init__(self, embed_dim: int, num_heads: int, num_classes: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(num_heads, embed_dim))  # at first, the mean
        self.values = nn.Linear(embed_dim, embed_dim, bias=False)
        self.norm = nn.BatchNorm1d(embed_dim, affine=False)
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, x_BTD: Tensor, pad_BT: Tensor) -> Tensor:
        """(B, T, D), and True where they are padding -> (B, C) logits."""
        # Plain products: attention kernels also compute the gradient of tokens, which is not used.
        logits_BHT = self.queries.expand(len(x_BTD), -1, -1) @ x_BTD.mT
        pooled_BHD = logits_BHT.masked_fill(pad_BT[:, None], -torch.inf).softmax(2) @ x_BTD
        # The values of the mean token are the mean of values, at less cost.
        weight_HdD = self.values.weight.unflatten(0, (len(self.queries), -1))
        values_BHd = torch.einsum("bhD,hdD->bhd", pooled_BHD, weight_HdD)
        return self.classifier(self.norm(values_BHd.flatten(1)))


def _regression_loss(
    scaled_DC: Tensor, bias_C: Tensor, x_ND: Tensor, y_N: Tensor, scale_D: Tensor, decay: float
) -> Tensor:
    """The loss; its gradient is put into `scaled_DC` and `bias_C`."""
    scaled_DC.grad = bias_C.grad = None
    loss = F.cross_entropy(x_ND @ scaled_DC + bias_C, y_N)
    loss = loss + decay / 2 * (scaled_DC * scale_D[:, None]).square().sum()
    loss.backward()
    return loss
