"""The last steps before a run: everything is checked, and built once without training."""

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from mmonepeace.checks.data import check_data
from mmonepeace.checks.errors import CheckError, try_now
from mmonepeace.checks.tokenizers import check_tokenizers
from mmonepeace.checks.weights import check_weights


def check_all(cfg: Config) -> None:
    """Check data and weights, and tell everything that is missing at once."""
    problems = []
    for check in (check_weights, check_tokenizers, check_data):
        try:
            check(cfg)
        except CheckError as error:
            problems.append(str(error))
    if problems:
        lines = "\n".join(problems).splitlines()
        last = try_now(cfg)
        unique = [line for line in dict.fromkeys(lines) if line != last]
        raise CheckError("\n".join([*unique, *([last] if last in lines else [])]))


def dry_run(runner: Runner | FlexibleRunner) -> None:
    """Build everything that training needs and load one batch, without training."""
    loader = runner.build_dataloader(runner._train_dataloader)
    if isinstance(runner, FlexibleRunner):
        runner.prepare()
    else:
        runner.build_optim_wrapper(runner.optim_wrapper)
    batch = next(iter(loader))
    parameters = sum(p.numel() for p in runner.model.parameters())
    trained = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
    inputs = batch["inputs"]
    by_name = inputs if isinstance(inputs, dict) else {"image": inputs}
    first = ", ".join(f"{name} {tuple(value[0].shape)}" for name, value in by_name.items())
    samples = getattr(loader.dataset, "total", None) or len(loader.dataset)  # a stream has no len
    runner.logger.info(
        f"dry run: {parameters:,} parameters, {trained:,} of them trained; "
        f"{samples:,} training samples, a batch of {len(batch['data_samples'])} whose "
        f"first has {first}. Nothing was trained."
    )
