"""Runtime shared by all recipes of distillation: logging, checkpoints, seeds; no validation."""

default_scope = "mmengine"
runner_type = "mmonepeace.PretrainRunner"
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="mmonepeace.LoggerHook", seconds=10, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2500, max_keep_ckpts=3),
    interruption=dict(type="mmonepeace.InterruptionHook"),
    divergence=dict(type="mmonepeace.DivergenceHook", patience=3),
)
custom_hooks = [
    dict(type="mmonepeace.StepSeedHook"),
    dict(type="mmonepeace.MeanLogHook"),
    dict(type="mmonepeace.ThroughputHook"),
    dict(type="mmonepeace.BrokenSamplesHook"),
    dict(type="mmonepeace.CheckpointMetadataHook"),
]
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=3407)
auto_scale_lr = dict(enable=False, base_batch_size=1024)
