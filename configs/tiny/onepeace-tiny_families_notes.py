"""Families of the instruments that play a note, from scratch or from names of notes, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_families_notes.py [--checkpoint CKPT]
Needs:  tools/dataset_converters/instrument_notes.py --out data/gm_instruments;
        CKPT of onepeace-tiny_al_gm-instruments-log-mel.py
Expect: accuracy of 62.1 % with names of notes as a start, of 57.8 % from scratch, with a sound bank not
        seen in training (3 seeds; chance 7.1 %); 3 minutes on one core
"""

_base_ = ["onepeace-tiny_classify_esc10.py"]
data_root = "data/gm_instruments"
needs_data = "data/gm_instruments, made by tools/dataset_converters/instrument_notes.py"
families = (
    *("bass", "brass", "chromatic percussion", "drum kit", "ensemble", "guitar", "organ"),
    *("percussive", "piano", "pipe", "reed", "sound effects", "strings", "world"),
)
pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=1.5, cache=True),
    dict(type="mmonepeace.PackModalities"),
]
dataset = dict(data_root=data_root, label="family", classes=families, pipeline=pipeline)
model = dict(
    backbone=dict(modalities=dict(audio=dict(clip_seconds=1.5, equaliser=6.0))),
    head=dict(num_classes=len(families)),
)
train_dataloader = dict(batch_size=64, dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=64)
