"""The scales that can be packed and trained, HR size over LR size: products of upsampling stages of 2 and 3."""

SCALES = (2, 3, 4, 6, 8)
