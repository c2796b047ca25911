"""Runtime shared by recipes of the multimodal tasks: logging, checkpoints, seeds."""

default_scope = "mmengine"
runner_type = "mmonepeace.FinetuneRunner"
max_broken = 0.05  # fraction of samples that may be unreadable before the run ends
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="mmonepeace.LoggerHook", seconds=10),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2, rule="greater"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    interruption=dict(type="mmonepeace.InterruptionHook"),
    divergence=dict(type="mmonepeace.DivergenceHook", patience=3),
)
custom_hooks = [dict(type="mmonepeace.CheckpointMetadataHook")]
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=3407)
