"""The factors between LR and HR: those that upsampling stages of 2 and 3 can produce."""

SCALES = (2, 3, 4, 6, 8)
