"""Batches for training: read ahead by one thread, moved to the device as integers, made float and oriented there."""

import queue
import threading

import torch

from srgan_dist.data.plan import Plan, slots_of
from srgan_dist.data.reader import Reader
from srgan_dist.data.sample import to_signed

READ_AHEAD = 2  # batches


class TrainLoader:
    """Yields the batches of one rank from any update on.

    batch_size: of all ranks together; every rank takes an equal share of it.
    """

    def __init__(self, split, lr_crop, batch_size, seed, augment, rank, world_size, device):
        self.reader = Reader(split)
        self.plan = Plan(split.rows["lr_height"], split.rows["lr_width"], lr_crop, seed, augment)
        self.lr_crop, self.batch_size = lr_crop, batch_size
        self.rank, self.world_size, self.device = rank, world_size, device

    def batches(self, first_update):
        """Yield (lr, hr) for update first_update, first_update + 1, ... without end.

        lr: [B, 1, c, c], hr: [B, 1, s*c, s*c]; float32 in [-1, 1] on the device; B this rank's share. Close the
        generator when done: its thread stops then.
        """
        with _ReadAhead(self._read, first_update) as ahead:
            while True:
                lr, hr, orientations = (x.to(self.device, non_blocking=True) for x in ahead.next())
                yield orient(to_signed(lr), orientations), orient(to_signed(hr), orientations)

    def _read(self, update):
        crops = self.plan.crops(slots_of(update, self.rank, self.world_size, self.batch_size))
        lr, hr = self.reader.batch(crops, self.lr_crop, pin_memory=self.device.type == "cuda")
        return lr, hr, torch.from_numpy(crops.orientations)


def orient(images, orientations):
    """Flip and transpose each image of a batch: images [B, C, S, S], orientations [B] in 0..7.

    Bit 0 flips rows, bit 1 flips columns, bit 2 transposes: together the eight symmetries of a square.
    """
    for bit, moved in ((1, lambda x: x.flip(-2)), (2, lambda x: x.flip(-1)), (4, lambda x: x.transpose(-1, -2))):
        chosen = (orientations & bit).bool().view(-1, 1, 1, 1)
        images = torch.where(chosen, moved(images), images)
    return images


class _ReadAhead:
    """Calls read(n), read(n + 1), ... in a thread, a few calls ahead of `next`; a failure is raised by `next`."""

    def __init__(self, read, first):
        self.read, self.first = read, first
        self.ready = queue.Queue(READ_AHEAD)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        while self.thread.is_alive():
            try:
                self.ready.get(timeout=0.05)  # the thread may wait for a free place
            except queue.Empty:
                pass

    def next(self):
        result, error = self.ready.get()
        if error is not None:
            raise error
        return result

    def _run(self):
        number = self.first
        while not self.stopped.is_set():
            try:
                item = self.read(number), None
            except BaseException as error:
                item = None, error
            self.ready.put(item)
            number += 1
            if item[1] is not None:
                return
