"""Visual grounding on RefCOCOg at 384 px.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_refcocog-384.py 8
Needs:  RefCOCOg as tables; the rest is that of RefCOCO
Memory: a step of 4 holds 45.3 GB on each GPU, as mmonepeace estimate says; not measured
Expect: accuracy of 89.22 on val and 89.27 on test in the paper; not measured here
"""

_base_ = ["./onepeace-giant_refcoco-384.py"]
model = dict(pool_over="text")
data_root = "data/refcocog"
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file="test.tsv"))
needs_data = (
    "data/refcocog/{train,val,test}.tsv with columns image, text and region_coord, made by "
    "tools/dataset_converters/task_tables.py"
)
