"""Everything that training needs, built once without training."""

from mmengine.runner import FlexibleRunner, Runner


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
