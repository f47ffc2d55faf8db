"""The factors between LR and HR that can be packed and trained: those whose upsampling stages are 2 and 3."""

SCALES = (2, 3, 4, 6, 8)
