"""Answers in the formats of other programs: COCO, YOLO, LabelMe, Label Studio and supervision."""
