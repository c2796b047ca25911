"""Predictions, drawn: what is drawn where, in which colour, under which title."""

import io

import numpy as np
import pytest
from PIL import Image

from mmonepeace.visualization.legend import class_colours
from mmonepeace.visualization.predictions import Instances, draw_instances, draw_label_maps

CLASSES = ("cat", "dog")
COLOURS = class_colours([(255, 0, 0), (0, 0, 255)], 2)
GREY = np.full((60, 80, 3), 128, np.uint8)
NOTHING = Instances(np.zeros((0, 4)), np.zeros(0, int))


def pixels(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return np.array(Image.open(stream).convert("RGB")).astype(int)


def close(rendered, colour, by=30):
    return (np.abs(rendered - np.array(colour)) <= by).all(-1)


def boxes(*labels, scores=None, masks=None):
    edges = np.array([[10, 10, 30, 40], [40, 5, 75, 55]], float)[: len(labels)]
    return Instances(edges, np.array(labels), scores, masks)


def test_boxes_have_the_colours_of_their_classes_and_titles_count_them():
    prediction = boxes(1, 1, scores=np.array([0.91, 0.4]))
    figure = draw_instances([("a.png", GREY, boxes(0), prediction)], CLASSES, COLOURS)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a.png: ground truth (1)", "prediction (2)"]
    truth, predicted = figure.axes
    assert [p.get_edgecolor()[:3] for p in truth.patches] == [(1, 0, 0)]
    assert [p.get_edgecolor()[:3] for p in predicted.patches] == [(0, 0, 1)] * 2
    assert sorted(t.get_text() for t in predicted.texts) == ["0.40", "0.91"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["cat", "dog"]


def test_the_most_certain_box_is_drawn_last():
    prediction = boxes(0, 1, scores=np.array([0.9, 0.2]))
    _, axes = draw_instances([("a", GREY, NOTHING, prediction)], CLASSES, COLOURS).axes
    assert [t.get_text() for t in axes.texts] == ["0.20", "0.90"]


def test_masks_tint_what_they_cover_and_nothing_else():
    masks = np.zeros((1, 60, 80), bool)
    masks[0, 20:50, 20:60] = True
    figure = draw_instances([("a", GREY, boxes(0, masks=masks), NOTHING)], CLASSES, COLOURS)
    shown = figure.axes[0].images[0].get_array()
    assert (shown[masks[0]] == [191, 64, 64]).all()
    assert (shown[~masks[0]] == 128).all()


@pytest.mark.parametrize("size", [(20, 300), (300, 20), (1, 1)])
def test_images_of_any_shape_without_any_box_are_drawn(size):
    image = np.zeros((*size, 3), np.uint8)
    figure = draw_instances([("a", image, NOTHING, NOTHING)] * 2, CLASSES, COLOURS)
    assert pixels(figure).shape[0] > 100


def test_an_empty_prediction_is_not_rated_by_its_background():
    truth = np.zeros((60, 80), np.uint8)
    truth[:6] = 1
    rows = [("a", GREY, truth, np.zeros_like(truth)), ("b", GREY, truth, truth)]
    rows.append(("c", GREY, np.full_like(truth, 255), truth))
    titles = [axes.get_title() for axes in draw_label_maps(rows, CLASSES, COLOURS).axes]
    assert titles[1::3] == [
        "prediction (mIoU 45%)", "prediction (mIoU 100%)", "prediction (no labels)",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_samples_are_in_rows_of_two(count):
    rows = [
        (str(i), GREY, np.zeros((60, 80), np.uint8), np.ones((60, 80), np.uint8))
        for i in range(count)
    ]
    figure = draw_label_maps(rows, CLASSES, COLOURS)
    assert len(figure.axes) == 3 * count
    height, width = pixels(figure).shape[:2]
    assert width <= 1600
    assert height < 300 + 200 * -(-count // 2)


def test_label_maps_are_painted_and_rated_without_what_is_ignored():
    truth = np.zeros((60, 80), np.uint8)
    truth[:30] = 1
    truth[:, 40:] = 255
    predicted = np.zeros_like(truth)
    figure = draw_label_maps([("a.png", GREY, truth, predicted)], CLASSES, COLOURS)
    assert [axes.get_title() for axes in figure.axes] == [
        "a.png: ground truth",
        "prediction (mIoU 25%)",  # of one class a half is there, of the other nothing
        "over the image",
    ]
    shown = figure.axes[0].images[0].get_array()
    assert (shown[0, 0] == COLOURS[1]).all()
    assert (shown[0, 79] == 255).all()
    rendered = pixels(figure)
    assert close(rendered, COLOURS[0]).sum() > 4 * close(rendered, COLOURS[1]).sum() > 0
