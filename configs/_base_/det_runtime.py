"""Runtime shared by recipes of detection: logging, checkpoints, drawn predictions, TTA."""

default_scope = "mmdet"
runner_type = "mmonepeace.FinetuneRunner"
max_broken = 0.05  # fraction of images that may be unreadable before the run ends
env_cfg = dict(
    cudnn_benchmark=False,  # multi-scale training sees many shapes
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="mmonepeace.LoggerHook", seconds=10, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook",
        by_epoch=False,
        interval=5000,
        max_keep_ckpts=2,
        save_best="coco/bbox_mAP",
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="DetVisualizationHook", draw=True, interval=100),
    interruption=dict(type="mmonepeace.InterruptionHook"),
    divergence=dict(type="mmonepeace.DivergenceHook", patience=3),
)
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="DetLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
auto_scale_lr = dict(enable=False, base_batch_size=16)
# mmdet merges boxes, not masks: recipes with masks have no tta_pipeline.
tta_model = dict(
    type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
)
