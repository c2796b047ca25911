"""Visual question answering on VQA v2 at 768 px, as in the paper.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_vqa-768.py 64
Needs:  that of the recipe at 480 px; 64 GPUs, 8 images each
Memory: a step of 8 holds 59.2 GB on each GPU, as mmonepeace estimate says; not measured
Expect: 82.6 on test-dev in the paper; not measured here
"""

_base_ = ["./onepeace-giant_vqa-480.py"]
model = dict(backbone=dict(modalities=dict(image=dict(rpb_sides=48))))
pipeline = [
    dict(type="mmonepeace.LoadImage", size=768),
    dict(type="mmonepeace.Tokenize", tokenizer=_base_.tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(pipeline=pipeline))
test_dataloader = dict(batch_size=16, dataset=dict(pipeline=pipeline))
