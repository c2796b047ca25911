"""Stage two on sounds under the names of drawings: sound finds images that no step saw with it.

Run:    mmonepeace pretrain configs/tiny/onepeace-tiny_al_common-names.py --data-root DIR \
            --tokenizer DIR/tokenizer.json --stage-one work_dirs/onepeace-tiny_vl_common-names-32/CKPT
        The control, which ends near chance:
        --cfg-options train_dataloader.dataset.ann_file=sounds_train_shuffled.tsv
Needs:  DIR of tools/dataset_converters/common_names.py; the first stage, and its tokenizer
Expect: with notes alone, on a sound bank and drawings not seen in training: audio to image R@1 of 46 ± 10 %
        among 13 (chance 7.7), R@5 of 85 ± 4 (38.5; 3 seeds), the control 7 ± 12 and 46 ± 17; 3 minutes on
        one core
"""

_base_ = ["./onepeace-tiny_al_gm-instruments-log-mel.py"]
needs_data = "DATA/sounds_{train,val}.tsv with columns audio and caption, made by common_names.py"
columns = dict(audio="audio", text="caption")
model = dict(
    learn_all=False,  # texts and images of the first stage stay where they are
    label_smoothing=0.0,  # or a sound need not come close to its name
    backbone=dict(
        arch=dict(depth=3, stem="overlapping"),
        img_size=32,
        modalities=dict(text=dict(vocab_size=1000), image={}, audio=dict(spec_masks=2)),
        init_std=0.3,
    ),
)
train_dataloader = dict(dataset=dict(ann_file="sounds_train.tsv", columns=columns))
val_dataloader = dict(dataset=dict(ann_file="sounds_val.tsv", columns=columns))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=51),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=600),
]
train_cfg = dict(max_iters=600, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=60))
