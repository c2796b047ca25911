"""Stage one on emoji at 32 px, those of what has a sound ten times as often, on a CPU.

Run:    mmonepeace pretrain configs/tiny/onepeace-tiny_vl_common-names-32.py --data-root DIR \
            --tokenizer DIR/tokenizer.json
Needs:  DIR of tools/dataset_converters/common_names.py; a tokenizer of its captions: mmonepeace
        train-tokenizer DIR/images_train.tsv DIR/other_images_train.tsv DIR/tokenizer.json --vocab-size 1000
Expect: 82 ± 4 % of 13 drawings of another artist get their names among 13 (chance 7.7; 3 seeds); 3
        minutes on one core
"""

_base_ = ["./onepeace-tiny_vl_emoji-names-32.py"]
needs_data = "DATA/{images_train,other_images_train,images_val}.tsv, made by common_names.py"
model = dict(backbone=dict(img_size=32, modalities=dict(text=dict(vocab_size=1000))))
train_dataloader = dict(
    dataset=dict(ann_file=[dict(path="images_train.tsv", repeat=10), "other_images_train.tsv"])
)
val_dataloader = dict(dataset=dict(ann_file="images_val.tsv"))
test_dataloader = val_dataloader
