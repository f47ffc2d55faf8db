"""Batches for training: read ahead by one thread, moved to the device as integers, made float and oriented there."""

import queue
import threading
from dataclasses import dataclass

import torch

from srgan_dist.data.plan import Mixture, Plan, slots_of
from srgan_dist.data.reader import Reader
from srgan_dist.data.values import to_signed

READ_AHEAD = 2  # batches that lie ready or are being read


@dataclass
class Buffer:
    """Memory for one batch, filled again and again; pinned where there is a GPU, which then copies by itself."""

    lr: torch.Tensor  # [B, 1, c, c] of the set's dtype
    hr: torch.Tensor  # [B, 1, s*c, s*c]
    orientations: torch.Tensor  # [B]
    copied: torch.cuda.Event | None = None  # when the device has taken what lies here


class TrainLoader:
    """Yields the batches of one rank from any update on.

    splits: [(split, weight)], all of one scale and pixel type. batch_size: of all ranks together; every rank takes an
    equal share of it. bad: for each split the samples that others stand in for; None: all are good.
    """

    def __init__(self, splits, lr_crop, batch_size, seed, augment, rank, world_size, device, bad=None):
        self.readers = [Reader(split) for split, _ in splits]
        bad = bad or [()] * len(splits)
        self.plans = [Plan(split.rows["lr_height"], split.rows["lr_width"], lr_crop, seed, augment, number, bad[number])
                      for number, (split, _) in enumerate(splits)]
        self.mixture = Mixture([weight for _, weight in splits], seed)
        self.augment = augment
        self.lr_crop, self.batch_size = lr_crop, batch_size
        self.rank, self.world_size, self.device = rank, world_size, device

    def batches(self, first_update):
        """Yield (lr, hr) for update first_update, first_update + 1, ... without end.

        lr: [B, 1, c, c], hr: [B, 1, s*c, s*c]; float32 in [-1, 1] on the device; B this rank's share. Close the
        generator when done: its thread stops then.
        """
        buffers = [self._buffer() for _ in range(READ_AHEAD + 1)]
        with _ReadAhead(self._fill, buffers, first_update) as ahead:
            while True:
                buffer = ahead.next()
                lr, hr, orientations = (
                    x.to(self.device, non_blocking=True) for x in (buffer.lr, buffer.hr, buffer.orientations)
                )
                if self.device.type == "cuda":
                    buffer.copied = torch.cuda.current_stream().record_event()
                if self.augment:
                    lr, hr = orient(lr, orientations), orient(hr, orientations)
                batch = to_signed(lr), to_signed(hr)
                ahead.give_back(buffer)
                yield batch

    def _buffer(self):
        pinned = self.device.type == "cuda"
        count = self.batch_size // self.world_size
        lr, hr = self.readers[0].empty_batch(count, self.lr_crop, pinned)
        return Buffer(lr, hr, torch.empty(count, dtype=torch.int64, pin_memory=pinned))

    def _fill(self, buffer, update):
        if buffer.copied is not None:
            buffer.copied.synchronize()
        slots = slots_of(update, self.rank, self.world_size, self.batch_size)
        orientations = buffer.orientations.numpy()
        for plan, reader, (places, own) in zip(self.plans, self.readers, self.mixture.split(slots), strict=True):
            crops = plan.crops(own)
            reader.batch(crops, buffer.lr, buffer.hr, places)
            orientations[places] = crops.orientations


def orient(images, orientations):
    """Flip and transpose each image of a batch: images [B, C, S, S] integers, orientations [B] in 0..7.

    Bit 0 flips rows, bit 1 flips columns, bit 2 transposes: together the eight symmetries of a square.
    """
    dtype = images.dtype
    if dtype == torch.uint16:  # a type with few kernels outside the CPU
        images = images.view(torch.int16)
    for bit, moved in enumerate((lambda x: x.flip(-2), lambda x: x.flip(-1), lambda x: x.mT.contiguous())):
        # Exchanges by exclusive or, masked per image: several times faster on CPU than torch.where
        chosen = (orientations >> bit & 1).neg().to(images.dtype).view(-1, 1, 1, 1)
        images = images ^ moved(images).bitwise_xor_(images).bitwise_and_(chosen)
    return images.view(dtype)


class _ReadAhead:
    """Calls fill(buffer, n), fill(buffer, n + 1), ... in a thread, ahead of `next`; a failure is raised by `next`."""

    def __init__(self, fill, buffers, first):
        self.fill, self.first = fill, first
        self.stopped = False
        self.free, self.ready = queue.SimpleQueue(), queue.SimpleQueue()
        for buffer in buffers:
            self.free.put(buffer)
        self.thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.free.put(None)
        self.thread.join()

    def next(self):
        """Return the next filled buffer; give it back when its content is no longer needed."""
        while True:
            try:
                buffer, error = self.ready.get(timeout=1)
            except queue.Empty:
                assert self.thread.is_alive(), "the thread that reads ahead has died"
                continue
            if error is not None:
                raise error
            return buffer

    def give_back(self, buffer):
        self.free.put(buffer)

    def _run(self):
        number = self.first
        while (buffer := self.free.get()) is not None and not self.stopped:
            try:
                self.fill(buffer, number)
            except BaseException as error:
                self.ready.put((None, error))
                return
            self.ready.put((buffer, None))
            number += 1
