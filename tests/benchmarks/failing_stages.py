"""Stages of a GPU benchmark that do no work: one succeeds, the others fail in three ways."""

import os
import time


def succeed(context):
    context.note("result", 1)


def hang(context):
    context.note("result", 2)
    time.sleep(1000)


def crash(context):
    context.note("result", 3)
    os._exit(3)


def fail(context):
    context.note("result", 4)
    raise ValueError("a fault of a stage")
