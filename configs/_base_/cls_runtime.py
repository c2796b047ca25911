"""Runtime shared by recipes of image classification: logging, checkpoints, TTA."""

default_scope = "mmpretrain"
runner_type = "mmonepeace.FinetuneRunner"
max_broken = 0.05  # fraction of images that may be unreadable before the run ends
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="mmonepeace.LoggerHook", seconds=10),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2, save_best="accuracy/top1"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="VisualizationHook", enable=False),
    interruption=dict(type="mmonepeace.InterruptionHook"),
    divergence=dict(type="mmonepeace.DivergenceHook", patience=3),
)
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="UniversalVisualizer", vis_backends=vis_backends)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
tta_model = dict(type="AverageClsScoreTTA")
