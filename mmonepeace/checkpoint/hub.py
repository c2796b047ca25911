"""Models by name: a folder, a published file, or a repository of the Hugging Face hub."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from mmonepeace import official_release
from mmonepeace.checkpoint.errors import CheckpointError
from mmonepeace.checkpoint.model_card import ModelCard
from mmonepeace.checkpoint.pretrained import (
    FILES,
    SHARD_SIZE,
    WEIGHT_FILES,
    write_pretrained,
)

_PREFIX = "hf-hub:"
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


class PushToHub:
    """What can be saved as a folder, and so as a repository of the hub."""

    def saved_parts(self) -> tuple[str, nn.Module, Mapping[str, Any], str | None]:
        """The class that loads it, its model, facts and tokenizer, see `write_pretrained`."""
        raise NotImplementedError

    def save_pretrained(
        self, folder: str | Path, card: ModelCard | None = None, shard_size: int = SHARD_SIZE
    ) -> None:
        """Write weights, config.json, a tokenizer and a model card, which `from_pretrained` reads.

        Args:
            folder: a new or empty one, or one that was written before, whose files are replaced once
                the new ones are complete.
            card: what only you know of the model, such as its license.
            shard_size: bytes of a file of weights, at most.

        Raises:
            CheckpointError: if the folder has other files or cannot be written, or of a subclass whose
                parameters no folder describes.
        """
        owner, model, facts, tokenizer = self.saved_parts()
        write_pretrained(folder, owner, model, facts, tokenizer, card, shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        revision: str | None = None,
        card: ModelCard | None = None,
        message: str = "Upload with mmonepeace",
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of the Hugging Face hub.

        Weights that an earlier upload left there are removed in the same commit. Whoever is logged in
        with huggingface-hub uploads.

        Args:
            repo_id: "org/name"; made if there is none.
            private: of a repository that is made.
            revision: branch; None takes the main one.
            card: see `save_pretrained`.
            message: of the commit.

        Returns:
            the address of the commit.

        Raises:
            CheckpointError: if huggingface-hub is missing, or the upload fails.
        """
        api = _huggingface_hub(repo_id).HfApi()
        with TemporaryDirectory() as temporary:
            folder = Path(temporary, repo_id.rpartition("/")[2])
            self.save_pretrained(folder, card)
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    revision=revision,
                    commit_message=message,
                    delete_patterns=list(WEIGHT_FILES),
                )
            except Exception as error:  # noqa: BLE001  (those of its HTTP library, too)
                raise CheckpointError(
                    f"{repo_id}: cannot be uploaded ({_reason(error)}). Log in with `hf auth login`, and "
                    "check the name and the network."
                ) from None
        return str(commit.commit_url)


def locate(name: str | Path, files: Sequence[str] = FILES) -> Path:
    """The folder or the file that the name of a model means.

    Args:
        name: a folder; "hf-hub:org/name" or "hf-hub:org/name@revision", which huggingface-hub fetches
            into its cache; or the name of a published file, such as "one-peace.pt", which is looked for
            in `official_release.folders()`.
        files: patterns of what is fetched from a hub.

    Raises:
        CheckpointError: in one line, if there is none.
    """
    name = str(name)
    if name.startswith(_PREFIX):
        return _fetch(name, files)
    if Path(name).is_dir():
        return Path(name)
    if name in {file.name for file in official_release.FILES}:
        if found := official_release.find_file(name):
            return found
        places = " nor in ".join(map(str, official_release.folders()))
        raise CheckpointError(f"{name} is neither in {places}. Get it: mmonepeace download {name}")
    if Path(name).is_file():
        raise CheckpointError(
            f"{name} is a file; expected a folder that save_pretrained wrote. Use from_checkpoint, or "
            "load_checkpoint of a backbone."
        )
    raise CheckpointError(
        f"{name}: no such folder. Name a folder that save_pretrained wrote, 'hf-hub:org/name' or a "
        "published file, which `mmonepeace download --list` shows."
    )


def _fetch(name: str, files: Sequence[str]) -> Path:
    match = _NAME.fullmatch(name.removeprefix(_PREFIX))
    if not match:
        raise CheckpointError(
            f"{name!r} names no repository; expected 'hf-hub:org/name' or 'hf-hub:org/name@revision'."
        )
    library = _huggingface_hub(name)
    try:
        return Path(
            library.snapshot_download(
                match["repo"],
                revision=match["revision"],
                allow_patterns=list(files),
                ignore_patterns=["*/*"],  # a pattern without a slash matches in subfolders, too
            )
        )
    except Exception as error:  # noqa: BLE001  (those of its HTTP library, too)
        raise CheckpointError(
            f"{name}: cannot be fetched ({_reason(error)}). Check the name, the revision and the "
            "network; a private repository needs `hf auth login`."
        ) from None


def _huggingface_hub(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{name}: needs huggingface-hub, which is missing: pip install 'mmonepeace[hub]'."
        ) from None
    return huggingface_hub


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:160] or type(error).__name__
