"""Checkpoints: safe reading, official and own key names, conversion, fitting weights to a model.

Reading never runs code from a file. Writing is safetensors or a torch file; the official vision
layout is also written as the pickle its loaders expect.
"""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
    from mmonepeace.checkpoint.audio_extractor import audio_extractor_weights, load_audio_extractor
    from mmonepeace.checkpoint.conversion import (
        convert_file,
        read_own,
        to_model,
        to_official_full,
        to_official_model,
        to_official_vision,
    )
    from mmonepeace.checkpoint.errors import CheckpointError, explain_broken_file, prefix_errors
    from mmonepeace.checkpoint.finding import find
    from mmonepeace.checkpoint.hub import PushToHub, locate
    from mmonepeace.checkpoint.inferred_config import infer_config
    from mmonepeace.checkpoint.inferred_model import infer_model
    from mmonepeace.checkpoint.integrity import fingerprint_of, non_finite, refuse_non_finite
    from mmonepeace.checkpoint.key_mapping import (
        RECOMPUTED,
        Conversion,
        official_name,
        own_name,
        select_vision,
        to_own,
    )
    from mmonepeace.checkpoint.loading import (
        LoadReport,
        adapt_on_load,
        adapt_state_dict,
        key_table,
        load_checkpoint,
        load_model,
    )
    from mmonepeace.checkpoint.lora import (
        DEFAULT_LORA,
        base_name,
        has_lora,
        merged,
        read_lora,
        take_lora,
        write_lora,
    )
    from mmonepeace.checkpoint.model_card import ModelCard
    from mmonepeace.checkpoint.pretrained import (
        SHARD_SIZE,
        Saved,
        read_pretrained,
        write_pretrained,
    )
    from mmonepeace.checkpoint.reading import names_of, read, read_content
    from mmonepeace.checkpoint.training_state import (
        commit,
        is_committed,
        join,
        read_run,
        run_files,
        verify_run,
        write_run,
    )
    from mmonepeace.checkpoint.work_dir import (
        checkpoints_of_run,
        is_checkpoint_name,
        read_note,
        remove_checkpoint,
        remove_leftovers,
        write_note,
    )
    from mmonepeace.checkpoint.writing import write

__all__ = [
    "DEFAULT_LORA", "RECOMPUTED", "SHARD_SIZE", "CheckpointError", "Conversion", "LoadReport",
    "ModelCard", "PushToHub", "Saved", "adapt_on_load", "adapt_state_dict",
    "audio_extractor_weights", "base_name", "checkpoints_of_run", "commit", "convert_file",
    "explain_broken_file", "find", "fingerprint_of", "has_lora", "infer_config", "infer_model",
    "is_checkpoint_name", "is_committed", "join", "key_table", "load_audio_extractor",
    "load_checkpoint", "load_model", "locate", "merged", "names_of", "non_finite", "official_name",
    "own_name", "prefix_errors", "read", "read_content", "read_lora", "read_note", "read_own",
    "read_pretrained", "read_run", "refuse_non_finite", "remove_checkpoint", "remove_leftovers",
    "run_files", "select_vision", "take_lora", "to_model", "to_official_full",
    "to_official_model", "to_official_vision", "to_own", "verify_run", "write", "write_lora",
    "write_note", "write_pretrained", "write_run",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__)
