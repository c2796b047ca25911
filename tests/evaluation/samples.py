"""Data samples as an evaluator hands them to metrics, and metrics of them."""

from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement


def element(**fields):
    """A data sample with these fields; texts and lists of them are metadata, as `pack` makes them."""
    metainfo = {k: v for k, v in fields.items() if isinstance(v, (str, int, list, tuple))}
    data = BaseDataElement(metainfo=metainfo)
    for key in fields.keys() - metainfo.keys():
        data.set_field(fields[key], key)
    return data


def measure(metric, samples, classes=None, batch_size=3):
    """The values of a metric, or of a config of one, without prefixes of names."""
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = {} if classes is None else {"classes": classes}
    for start in range(0, len(samples), batch_size):
        evaluator.process(samples[start : start + batch_size])
    return {k.partition("/")[2]: v for k, v in evaluator.evaluate(len(samples)).items()}
