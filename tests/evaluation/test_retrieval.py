from itertools import combinations, permutations

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import distributed as dist

from mmonepeace.engine.processes import exit_distributed
from mmonepeace.evaluation import RecallAtK
from mmonepeace.evaluation.retrieval import chance, rank
from tests.processes import spawn


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def sample(**fields):
    """A data sample as an evaluator hands it to a metric."""
    embeddings = fields.pop("embeddings")
    element = BaseDataElement(metainfo=fields)
    element.set_field(embeddings, "embeddings")
    return element.to_dict()


def pair(image, text, image_x, text_x):
    return sample(img_path=image, text=text, embeddings={"image": image_x, "text": text_x})


def evaluate(samples, metric=None):
    metric = metric or RecallAtK(topk=(1, 2, 3))
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def naive_ranks(query, items, pairs):
    """By the definition, one query at a time."""
    ranks = []
    for q in range(len(query)):
        similarity = [float(query[q] @ item) for item in items]
        right = {g for p, g in pairs if p == q}
        best = max(similarity[g] for g in right)
        ranks.append(sum(s >= best for g, s in enumerate(similarity) if g not in right))
    return ranks


def test_ranks_are_known_where_the_order_is():
    items = torch.eye(4)
    query = F.normalize(torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]]), dim=-1)
    right = torch.arange(3), torch.tensor([0, 2, 0])
    assert rank(query, items, *right).tolist() == [0, 2, 3]


@pytest.mark.parametrize("max_similarities", [1, 17, 40, 10**6])
def test_chunks_and_several_right_answers_equal_the_definition(max_similarities):
    query, items = unit(13, 6), unit(9, 6)
    query_P = torch.cat([torch.arange(13), torch.randint(13, (12,))])
    item_P = torch.randint(9, (25,))
    pairs = set(zip(query_P.tolist(), item_P.tolist(), strict=True))
    got = rank(query, items, query_P, item_P, max_similarities)
    assert got.tolist() == naive_ranks(query, items, pairs)


def test_an_embedding_that_is_always_the_same_finds_nothing():
    x = unit(1, 8)[0]
    got = evaluate([pair(f"{i}.png", f"text {i}", x, x) for i in range(5)])
    assert got["retrieval/image_to_text_R@3"] == got["retrieval/text_to_image_R@1"] == 0


def test_five_captions_of_an_image_are_five_matches_and_one_image():
    images, texts = unit(4, 16), unit(20, 16)
    texts[7] = images[1]  # one of the five captions of image 1 is perfect
    texts[10] = images[0]  # a caption of image 2 that fits image 0
    got = evaluate(
        [pair(f"{i // 5}.png", f"text {i}", images[i // 5], texts[i]) for i in range(20)]
    )
    expected = naive_ranks(images, texts, {(i // 5, i) for i in range(20)})
    assert expected[1] == 0
    assert expected[0] > 0
    assert got["retrieval/image_to_text_R@1"] == 25 * expected.count(0)
    backwards = naive_ranks(texts, images, {(i, i // 5) for i in range(20)})
    assert got["retrieval/text_to_image_R@1"] == pytest.approx(5 * backwards.count(0))
    assert got["retrieval/text_to_image_R@3"] == 5 * sum(r < 3 for r in backwards)
    assert got["retrieval/mean_R@1"] == pytest.approx(
        (got["retrieval/image_to_text_R@1"] + got["retrieval/text_to_image_R@1"]) / 2
    )


def test_equal_texts_are_one_query_that_matches_all_their_images():
    images, text = unit(6, 16), unit(3, 16)
    got = evaluate([pair(f"{i}.png", "abc"[i % 3], images[i], text[i % 3]) for i in range(6)])
    expected = naive_ranks(text, images, {(i % 3, i) for i in range(6)})
    assert got["retrieval/text_to_image_R@1"] == pytest.approx(100 * expected.count(0) / 3)
    # Two of six images match: 1 - 4/6 * 3/5 with two draws.
    assert got["retrieval/text_to_image_R@2_chance"] == pytest.approx(60)


def test_a_caption_of_two_images_is_right_only_for_its_own_by_the_official_rule():
    x = torch.eye(4)
    shared, other, third = x[0] + x[1], x[0] + 0.1 * x[2], x[1] + 0.1 * x[3]
    pairs = [("1.png", "shared"), ("1.png", "other"), ("2.png", "shared"), ("2.png", "third")]
    embeddings = {"shared": shared + 0.01 * x[0], "other": other, "third": third}
    samples = [
        pair(image, text, x[int(image[0]) - 1], F.normalize(embeddings[text], dim=0))
        for image, text in pairs
    ]
    distinct = evaluate(samples, RecallAtK(topk=(1,)))
    assert distinct["retrieval/text_to_image_R@1"] == 100
    official = evaluate(samples, RecallAtK(topk=(1,), rule="official"))
    assert official["retrieval/text_to_image_R@1"] == 75
    assert official["retrieval/text_to_image_R@1_chance"] == 50
    assert official["retrieval/image_to_text_R@1"] == 100
    assert official["retrieval/image_to_text_R@1_chance"] == 50
    assert official["retrieval/r_mean"] == 87.5


def official_recalls(similarity_XT, owner_T, k):
    """Image to text and text to image: the first k of a sort, for ties the mean over all orders."""

    def hits(scores, right):
        levels = sorted(set(scores.tolist()), reverse=True)
        groups = [[i for i, s in enumerate(scores.tolist()) if s == level] for level in levels]
        before, done = [], 0
        for group in groups:
            if done + len(group) >= k:
                orders = [set(order[: k - done]) for order in permutations(group)]
                return sum(bool(right & (set(before) | order)) for order in orders) / len(orders)
            before += group
            done += len(group)
        return float(bool(right & set(before)))

    images = [
        hits(row, {t for t, owner in enumerate(owner_T) if owner == image})
        for image, row in enumerate(similarity_XT)
    ]
    texts = [hits(row, {owner_T[t]}) for t, row in enumerate(similarity_XT.t())]
    return [100 * sum(x) / len(x) for x in (images, texts)]


@pytest.mark.parametrize("case", range(12))
@pytest.mark.parametrize("name", ["image", "audio"])
def test_the_official_rule_equals_the_mean_over_all_orders_of_ties(case, name):
    torch.manual_seed(case)
    owner_T = [*range(5), *torch.randint(5, (4,)).tolist()]
    word_T = [*"abcdeabcd"][: len(owner_T)] if case % 2 else [*"abcdefghi"]
    # Embeddings out of few values tie often, also across words.
    table = {word: torch.eye(4)[torch.randint(4, (1,))[0]] for word in "abcdefghi"}
    if case % 3 == 0:
        table = {word: unit(4) for word in table}
    item = unit(5, 4) if case % 3 else torch.eye(4)[[0, 1, 2, 3, 3]]
    keys = {"image": "img_path", "audio": "audio_path"}
    samples = [
        sample(
            text=word,
            embeddings={name: item[owner], "text": table[word]},
            **{keys[name]: f"{owner}.file"},
        )
        for owner, word in zip(owner_T, word_T, strict=True)
    ]
    metric = RecallAtK(topk=(1, 2, 3), rule="official", max_similarities=1 + 20 * (case % 2))
    got = evaluate(samples, metric)
    similarity = item @ torch.stack([table[word] for word in word_T]).t()
    recalls = {k: official_recalls(similarity, owner_T, k) for k in (1, 2, 3)}
    for k, (of_items, of_texts) in recalls.items():
        assert got[f"retrieval/{name}_to_text_R@{k}"] == pytest.approx(of_items)
        assert got[f"retrieval/text_to_{name}_R@{k}"] == pytest.approx(of_texts)
    expected = sum(map(sum, recalls.values())) / 6
    assert got["retrieval/r_mean"] == pytest.approx(expected)


def test_the_official_rule_without_ties_equals_the_first_k_of_a_sort():
    torch.manual_seed(0)
    images, texts = unit(40, 8), unit(200, 8)
    owner_T = torch.arange(200) // 5
    samples = [pair(f"{t // 5}.png", f"text {t}", images[t // 5], texts[t]) for t in range(200)]
    got = evaluate(samples, RecallAtK(rule="official"))
    for k in (1, 5, 10):
        to_text = owner_T[(images @ texts.t()).topk(k).indices] == torch.arange(40)[:, None]
        to_image = (texts @ images.t()).topk(k).indices == owner_T[:, None]
        for name, hits in (("image_to_text", to_text), ("text_to_image", to_image)):
            expected = 100 * hits.any(1).double().mean().item()
            assert got[f"retrieval/{name}_R@{k}"] == pytest.approx(expected)


def test_embeddings_that_are_all_equal_are_at_chance_by_the_official_rule():
    x = unit(1, 8)[0]
    samples = [pair(f"{i % 4}.png", f"text {i % 7}", x, x) for i in range(12)]
    got = evaluate(samples, RecallAtK(topk=(1, 3, 50), rule="official"))
    for k in (1, 3, 50):
        for name in ("image_to_text", "text_to_image"):
            chance_level = got[f"retrieval/{name}_R@{k}_chance"]
            assert got[f"retrieval/{name}_R@{k}"] == pytest.approx(chance_level)


def test_bad_rules_and_embeddings_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="rule is 'offical'; choose from distinct, official"):
        RecallAtK(rule="offical")
    x = unit(3, 4)
    x[1] = torch.nan
    samples = [pair(f"{i}.png", f"text {i}", unit(1, 4)[0], x[i]) for i in range(3)]
    for rule in ("distinct", "official"):
        with pytest.raises(ValueError, match="embeddings of 1 of 3 items are not finite"):
            evaluate(samples, RecallAtK(rule=rule))


def test_three_modalities_have_six_directions_and_a_missing_one_is_left_out():
    x = torch.eye(4)
    samples = [
        sample(key=f"{i}", text=f"{i}", embeddings=dict.fromkeys(("image", "text", "audio"), x[i]))
        for i in range(3)
    ]
    samples.append(sample(key="3", text="3", embeddings={"text": x[3], "audio": x[3]}))
    got = evaluate(samples)
    directions = {k.split("/")[1].split("_R@")[0] for k in got} - {"mean", "r_mean"}
    assert len(directions) == 6
    assert all(got[f"retrieval/{d}_R@1"] == 100 for d in directions)
    assert got["retrieval/image_to_text_R@1_chance"] == pytest.approx(100 / 3)
    assert got["retrieval/audio_to_text_R@1_chance"] == pytest.approx(25)


def test_chance_counts_the_draws_that_hit():
    for right in range(1, 5):
        draws = list(combinations(range(6), 3))
        hits = sum(any(x < right for x in draw) for draw in draws)
        got = chance(torch.tensor([right]), 6, 3)
        assert got.item() == pytest.approx(hits / len(draws))
    assert chance(torch.tensor([1]), 3, 10).item() == 1
    several = chance(torch.tensor([1, 2, 3]), torch.tensor([4, 2, 5]), torch.tensor([2, 0, 9]))
    assert several.tolist() == [0.5, 0, 1]


def test_what_identifies_samples_must_be_there():
    with pytest.raises(KeyError, match="meta_keys of PackModalities"):
        evaluate([sample(text="a", embeddings={"image": unit(1, 4)[0]})])


def _some_pairs():
    torch.manual_seed(1)
    images, texts = unit(4, 8), unit(11, 8)
    return [pair(f"{i % 4}.png", f"{i % 7}", images[i % 4], texts[i % 7]) for i in range(11)]


def _two_ranks(process, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=process, world_size=2)
    samples = _some_pairs()
    dealt = [samples[i % 11] for i in range(process, 12, 2)]  # padded, as samplers do
    metric = RecallAtK(topk=(1, 2, 3), collect_device="cpu", collect_dir=f"{folder}/parts")
    metric.process(None, dealt)
    torch.save(metric.evaluate(11), f"{folder}/{process}.pt")
    exit_distributed(0)


def test_two_processes_find_what_one_finds(tmp_path):
    spawn(_two_ranks, (str(tmp_path),), 2)
    expected = evaluate(_some_pairs())
    for process in range(2):
        assert torch.load(tmp_path / f"{process}.pt", weights_only=True) == expected
