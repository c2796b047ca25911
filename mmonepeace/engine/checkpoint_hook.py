"""When checkpoints are written, and in which order: an old one goes when a new one is complete."""

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine import hooks
from mmengine.dist import is_main_process
from mmengine.runner import EpochBasedTrainLoop

from mmonepeace.checkpoint import (
    is_checkpoint_name,
    remove_checkpoint,
    remove_leftovers,
    write_note,
)
from mmonepeace.checks import CheckError
from mmonepeace.registry import HOOKS

# Of the message hub, which is stored in checkpoints: names of files that newer ones have replaced.
OUTDATED = "outdated_ckpts"
EVALUATED = "evaluated_step"  # the last one


@HOOKS.register_module()
class CheckpointHook(hooks.CheckpointHook):
    """MMEngine's hook, such that a run that is killed at any moment has left a complete checkpoint.

    A checkpoint is written, then noted in `last_checkpoint`, and only then the one that it replaces
    is removed; likewise the best one. What a killed run had no time to remove, the resumed one does,
    also in a work directory that was moved. Our runners take this hook where a recipe names
    MMEngine's.

    Args:
        args: of MMEngine's `CheckpointHook`.
        kwargs: of the same.

    Raises:
        ValueError: if `filename_tmpl` gives names by which no checkpoint would be found again.
    """

    keep_ckpt_ids: deque[int]
    best_ckpt_path: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._old_best: dict[str, str | None] = {}  # while new ones are written
        if not is_checkpoint_name(self.filename_tmpl.format(1)):
            raise ValueError(
                f"filename_tmpl is {self.filename_tmpl!r}, expected iter_{{}}.pth or "
                "epoch_{}.pth: by these names --resume finds checkpoints. Leave it out."
            )

    def before_train(self, runner: Any) -> None:
        """Find the folder, and finish what the writes and removals of a killed run left undone.

        Raises:
            CheckError: if the folder is not a local one.
        """
        if "://" in str(self.out_dir or ""):
            raise CheckError(
                f"default_hooks.checkpoint.out_dir is {self.out_dir}, expected a local folder: only "
                "there, files are written completely or not at all."
            )
        hub, limit = runner.message_hub, self.max_keep_ckpts
        kept = [step for step in hub.get_info("keep_ckpt_ids") or [] if isinstance(step, int)]
        hub.update_info("keep_ckpt_ids", kept[-limit:] if limit > 0 else kept)
        super().before_train(runner)
        self._set_best({name: self._here(path) for name, path in self._best().items()})
        if is_main_process():
            Path(self.out_dir).mkdir(parents=True, exist_ok=True)
            for folder in {self.out_dir, runner.work_dir}:
                remove_leftovers(folder)
        self._say_interval(runner)
        resumed = Path(runner._load_from) if runner._resume else None
        if resumed is None or resumed.parent.resolve() != Path(self.out_dir).resolve():
            hub.update_info(OUTDATED, [])  # names of another folder
            if limit > 0:
                self.keep_ckpt_ids.clear()
        else:
            self.last_ckpt = str(resumed)
            if limit > 0:
                self._add_outdated(runner, map(self.filename_tmpl.format, kept[:-limit]))
            self._remove_outdated(runner, spare=resumed.name)
        if resumed and runner.val_loop is not None and self._is_evaluation_due(runner):
            runner.logger.info("This step is evaluated now: the run may have been killed before.")
            runner.val_loop.run()

    def _say_interval(self, runner: Any) -> None:
        """Say what a kill may cost."""
        unit, length = (
            ("epochs", runner.max_epochs) if self.by_epoch else ("steps", runner.max_iters)
        )
        often = max(1, length // 10)
        if length == 1 or 0 < self.interval <= often:
            return
        every = f"every {self.interval} {unit}" if 0 < self.interval < length else "at its end only"
        runner.logger.warning(
            f"this run of {length} {unit} saves checkpoints {every}: a kill costs all steps since "
            f"the last one. Every {often}: default_hooks.checkpoint.interval."
        )

    def _is_evaluation_due(self, runner: Any) -> bool:
        """Whether the step that was resumed is one to evaluate, and was not when it was saved."""
        loop = runner.train_loop
        loop._decide_current_val_interval()
        done, end, is_whole = loop.iter, loop.max_iters, True
        if isinstance(loop, EpochBasedTrainLoop):
            is_whole = loop.iter == loop.epoch * len(loop.dataloader)
            done, end = loop.epoch, loop.max_epochs
        due = done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)
        return due and is_whole and runner.message_hub.get_info(EVALUATED) != loop.iter

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the best checkpoint."""
        runner.message_hub.update_info(EVALUATED, runner.train_loop.iter)
        super().after_val_epoch(runner, metrics or {})

    def save_now(self, runner: Any, step: int) -> None:
        """Write a checkpoint whatever the interval, unless it has been, before a run is left.

        `step` is the number of steps that have been trained.
        """
        meta = dict(epoch=runner.epoch, iter=step)
        name = f"iter_{step}.pth"
        if self.last_ckpt is not None and Path(self.last_ckpt).name == name:
            return
        if not self.by_epoch:
            self._save_checkpoint_with_step(runner, step, meta)
        else:
            self._add_outdated(runner, [name])  # by the next one
            self._write(runner, name, meta)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        self._replace_best(runner)
        limit = self.max_keep_ckpts
        if limit > 0 and step not in self.keep_ckpt_ids:
            kept = [*self.keep_ckpt_ids, step]
            self.keep_ckpt_ids = deque(kept, limit)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
            self._add_outdated(runner, map(self.filename_tmpl.format, kept[:-limit]))
        name = self.filename_tmpl.format(step)
        self._write(runner, name, meta)
        self._remove_outdated(runner, spare=name)

    def _write(self, runner: Any, name: str, meta: dict[str, Any]) -> None:
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            **self.args,
        )
        self.last_ckpt = str(Path(self.out_dir, name))
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        if is_main_process():
            write_note(runner.work_dir, self.last_ckpt)

    def _save_best_checkpoint(self, runner: Any, metrics: Mapping[str, float]) -> None:
        if not self.save_best:
            return
        unknown = set(self.key_indicators) - {"auto", *metrics}
        for name in unknown:
            runner.logger.warning(
                f"save_best is {name}, which is not among what was evaluated "
                f"({', '.join(metrics)}), so no checkpoint is kept as the best one by it."
            )
        metrics = {**metrics, **dict.fromkeys(unknown)}
        # The base class removes the best one before it writes the next: unless it knows of none.
        self._old_best = self._best()
        self._set_best(dict.fromkeys(self._old_best))
        super()._save_best_checkpoint(runner, metrics)  # which writes the last one again
        self._replace_best(runner)
        if self.last_ckpt is None:
            self._remove_outdated(runner)

    def _replace_best(self, runner: Any) -> None:
        """After new best ones were written: note that the old ones are outdated."""
        new = self._best()
        for name, path in self._old_best.items():
            if new.get(name) is None:  # not a better one
                new[name] = path
            elif path and path != new[name]:
                self._add_outdated(runner, [Path(path).name])
        self._set_best(new)
        self._old_best = {}

    def _best(self) -> dict[str, str | None]:
        """Score -> path of its best checkpoint."""
        if not self.save_best:
            return {}
        if len(self.key_indicators) == 1:
            return {"": self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best(self, paths: dict[str, str | None]) -> None:
        if self.save_best and len(self.key_indicators) == 1:
            self.best_ckpt_path = paths[""]
        elif self.save_best:
            self.best_ckpt_path_dict = paths

    def _here(self, path: str | None) -> str | None:
        """The path of a checkpoint in today's folder, which may have been moved."""
        return path and str(Path(self.out_dir, Path(path).name))

    def _add_outdated(self, runner: Any, names: Iterable[str]) -> None:
        hub = runner.message_hub
        hub.update_info(OUTDATED, [*(hub.get_info(OUTDATED) or []), *names])

    def _remove_outdated(self, runner: Any, spare: str = "") -> None:
        """Remove what newer ones have replaced, all but one."""
        names = [str(name) for name in runner.message_hub.get_info(OUTDATED) or []]
        if is_main_process():
            for name in names:
                if name != spare and is_checkpoint_name(name):  # whatever a file told us
                    remove_checkpoint(Path(self.out_dir, name))
        runner.message_hub.update_info(OUTDATED, [name for name in names if name == spare])
