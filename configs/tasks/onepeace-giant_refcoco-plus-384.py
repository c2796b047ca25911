"""Visual grounding on RefCOCO+ at 384 px.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_refcoco-plus-384.py 8
Needs:  RefCOCO+ as tables; the rest is that of RefCOCO
Memory: a step of 4 holds 45.3 GB on each GPU, as mmonepeace estimate says; not measured
Expect: accuracy of 88.77 on val, 92.21 on testA and 83.23 on testB in the paper; not measured here
"""

_base_ = ["./onepeace-giant_refcoco-384.py"]
data_root = "data/refcoco+"
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
needs_data = (
    "data/refcoco+/{train,val,testA,testB}.tsv with columns image, text and region_coord, made by "
    "tools/dataset_converters/task_tables.py"
)
