"""Images with one class each, from the same tables as pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmonepeace.datasets.manifest import ManifestError
from mmonepeace.datasets.pairs import PairDataset
from mmonepeace.registry import DATASETS


@DATASETS.register_module()
class LabelledDataset(PairDataset):
    """`PairDataset` whose text is the name of a class, for mmpretrain's classifiers.

    A record has `img_path`, from the column `image`, and `gt_label`, the index in `classes` of what
    the column `label` has. `ann_file` and all other arguments but `columns` are of `PairDataset`.

    Raises:
        ManifestError: for a label that is not one of the classes.
    """

    def __init__(
        self,
        ann_file: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        label: str,
        classes: Sequence[str],
        image: str = "image",
        **kwargs: Any,
    ) -> None:
        columns = {"image": image, "text": label}
        super().__init__(ann_file, columns, metainfo={"classes": tuple(classes)}, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the manifests."""
        labels = {name: i for i, name in enumerate(self.metainfo["classes"])}
        records = super().load_data_list()
        unknown = sorted({record["text"] for record in records} - set(labels))
        if unknown:
            raise ManifestError(
                f"{self.sources[0].path}: {', '.join(unknown[:5])} is not among the {len(labels)} "
                f"classes ({', '.join(list(labels)[:5])}, ...). List all of them in `classes`."
            )
        return [{**record, "gt_label": labels[record["text"]]} for record in records]
