"""Stage two of ONE-PEACE with the paper's settings: audio and text, 3072 pairs per step, 10 epochs.

Run:    srun ... mmonepeace pretrain configs/pretrain/onepeace-giant_al_paper.py \
            --stage-one CKPT --launcher slurm
Needs:  the checkpoint of stage one; WavLM-Large.pt (github.com/microsoft/unilm) in checkpoints/, from
        which the audio extractor starts; 2.4 million audio-text pairs (AudioSet, FreeSound, Epidemic
        Sound, AudioCaps and six more) as .tsv files; ESC-50; the official tokenizer; 64 GPUs with
        48 pairs each
Expect: not measured yet. Of 2.8 G parameters 1.2 G are trained
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/audio_pairs_15s.py",
    "../_base_/schedules/pretrain_al_10epochs.py",
    "../_base_/pretrain_runtime.py",
]
stage_one = "work_dirs/onepeace-giant_vl_paper/iter_200000.pth"
needs_data = "data/al/train.tsv with columns audio and caption, and data/esc50/all.tsv"
model = dict(
    stage="al",
    backbone=dict(
        arch="giant",
        modalities=dict(text={}, audio={}),
        init_cfg=dict(
            type="mmonepeace.PretrainedAudioExtractor", checkpoint="checkpoints/WavLM-Large.pt"
        ),
    ),
)
needs_weights = "WavLM-Large.pt of github.com/microsoft/unilm, or init_cfg=None of the backbone"
train_dataloader = dict(batch_size=48, dataset=dict(ann_file=["al/train.tsv"]))
default_hooks = dict(checkpoint=dict(interval=791))
auto_scale_lr = dict(base_batch_size=3072)
