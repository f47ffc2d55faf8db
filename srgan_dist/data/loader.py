"""Batches for training: read ahead by one thread, moved to the device as integers, made float and oriented there.

What lies elsewhere is brought into the cache a block of shards ahead of the reading.
"""

import contextlib
import queue
import threading
from dataclasses import dataclass

import numpy as np
import torch

from srgan_dist.data.index import FETCHERS
from srgan_dist.data.reader import Reader
from srgan_dist.data.sampler import CropSampler, DatasetMixture, slots_of
from srgan_dist.data.value_range import to_network_range
from srgan_dist.storage.cache import Stopped
from srgan_dist.utils.errors import UserError

READ_AHEAD = 2  # batches that lie ready or are being read


@dataclass
class Buffer:
    """Memory for one batch, filled again and again; pinned where there is a GPU, which then copies by itself."""

    lr: torch.Tensor  # [B, 1, c, c] of the set's dtype
    hr: torch.Tensor  # [B, 1, s*c, s*c]
    orientations: torch.Tensor  # [B]
    copied: torch.cuda.Event | None  # on a GPU: when it has taken what is here


class TrainLoader:
    """Yields the batches of one rank from any update on.

    splits: [(split, weight)], all of one scale and pixel type. batch_size: of all ranks together; every rank takes an
    equal share of it. bad: for each split the samples that others stand in for; None: all are good. blocks: for each
    split how many shards are shuffled together; None: all. gradient_accumulation_steps: equal parts (micro-batches) in which a rank
    takes its share of an update.
    """

    def __init__(
        self,
        splits,
        lr_crop,
        batch_size,
        seed,
        augment,
        rank,
        world_size,
        device,
        bad=None,
        blocks=None,
        gradient_accumulation_steps=1,
    ):
        self.readers = [Reader(split) for split, _ in splits]
        bad, blocks = bad or [()] * len(splits), blocks or [None] * len(splits)
        self.plans = [
            CropSampler(
                split.rows["lr_height"],
                split.rows["lr_width"],
                lr_crop,
                seed,
                augment,
                number,
                bad[number],
                split.rows["shard"],
                blocks[number],
            )
            for number, (split, _) in enumerate(splits)
        ]
        self.mixture = DatasetMixture([weight for _, weight in splits], seed)
        self.augment = augment
        self.lr_crop, self.batch_size = lr_crop, batch_size
        self.rank, self.world_size, self.device = rank, world_size, device
        self.gradient_accumulation_steps = gradient_accumulation_steps

    def batches(self, first_update):
        """Yield (lr, hr) for update first_update, first_update + 1, ... without end; `gradient_accumulation_steps` for each.

        lr: [B, 1, c, c], hr: [B, 1, s*c, s*c]; float32 in [-1, 1] on the device; B this rank's share of a
        micro-batch. Close the generator when done: its thread stops then.
        """
        buffers = [self._buffer() for _ in range(READ_AHEAD + 1)]
        reached = self.mixture.reached(first_update * self.batch_size).tolist()
        stop = threading.Event()
        with contextlib.ExitStack() as stack:
            self.fetchers = [
                stack.enter_context(
                    _FetchAhead(
                        reader, plan.blocks(slot), self.gradient_accumulation_steps + READ_AHEAD + 2, stop
                    )
                )
                for reader, plan, slot in zip(self.readers, self.plans, reached, strict=True)
            ]
            ahead = stack.enter_context(
                _ReadAhead(self._fill, buffers, first_update * self.gradient_accumulation_steps, self.device)
            )
            stack.callback(stop.set)  # first of all, for the thread may be waiting for a shard
            while True:
                buffer = ahead.next()
                lr, hr, orientations = (
                    x.to(self.device, non_blocking=True) for x in (buffer.lr, buffer.hr, buffer.orientations)
                )
                if buffer.copied:
                    buffer.copied.record()
                if self.augment:
                    lr, hr = orient(lr, orientations), orient(hr, orientations)
                batch = to_network_range(lr), to_network_range(hr)
                ahead.give_back(buffer)
                yield batch

    def _buffer(self):
        pinned = self.device.type == "cuda"
        count = self.batch_size // (self.world_size * self.gradient_accumulation_steps)
        lr, hr = self.readers[0].empty_batch(count, self.lr_crop, pinned)
        # blocking: the thread that waits for it sleeps
        copied = torch.cuda.Event(blocking=True) if pinned else None
        return Buffer(lr, hr, torch.empty(count, dtype=torch.int64, pin_memory=pinned), copied)

    def _fill(self, buffer, number):
        if buffer.copied:
            buffer.copied.synchronize()  # returns at once where nothing was recorded yet
        update, micro_batch = divmod(number, self.gradient_accumulation_steps)
        slots = slots_of(
            update, self.rank, self.world_size, self.batch_size, self.gradient_accumulation_steps, micro_batch
        )
        orientations = buffer.orientations.numpy()
        shares = self.mixture.split(slots)
        for plan, reader, fetcher, (places, own) in zip(
            self.plans, self.readers, self.fetchers, shares, strict=True
        ):
            while len(own):  # block by block: a large batch may need more of them than the cache holds
                fetcher.reach(int(own[0]), number)
                here = int(np.searchsorted(own, fetcher.end))
                crops = plan.crops(own[:here])
                reader.batch(crops, buffer.lr, buffer.hr, places[:here])
                orientations[places[:here]] = crops.orientations
                places, own = places[here:], own[here:]


def orient(images, orientations):
    """Flip and transpose each image of a batch: images [B, C, S, S] integers, orientations [B] in 0..7.

    Bit 0 flips rows, bit 1 flips columns, bit 2 transposes: together the eight symmetries of a square.
    """
    dtype = images.dtype
    if dtype == torch.uint16:  # a type with few kernels outside the CPU
        images = images.view(torch.int16)
    for bit, moved in enumerate(
        (
            lambda x: x.flip(-2),
            lambda x: x.flip(-1),
            lambda x: x.mT.clone(memory_format=torch.contiguous_format),
        )
    ):
        # Exchanges by exclusive or, masked per image: several times faster on CPU than torch.where
        chosen = (orientations >> bit & 1).neg().to(images.dtype).view(-1, 1, 1, 1)
        images = images ^ moved(images).bitwise_xor_(images).bitwise_and_(chosen)
    return images.view(dtype)


class _ReadAhead:
    """Calls fill(buffer, n), fill(buffer, n + 1), ... in a thread, ahead of `next`; a failure is raised by `next`.

    device: whose buffers these are. A thread that touches CUDA without a choice takes GPU 0, and memory of it.
    """

    def __init__(self, fill, buffers, first, device):
        self.fill, self.first, self.device = fill, first, device
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
                raise (
                    error
                    if isinstance(error, Exception)
                    else RuntimeError("the thread that reads ahead was ended")
                ) from error
            return buffer

    def give_back(self, buffer):
        self.free.put(buffer)

    def _run(self):
        number = self.first
        try:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            while (buffer := self.free.get()) is not None and not self.stopped:
                self.fill(buffer, number)
                self.ready.put((buffer, None))
                number += 1
        except (
            BaseException
        ) as error:  # also what is no Exception: a thread that dies in silence is waited for
            self.ready.put((None, error))


class _FetchAhead:
    """Opens the shards of a block before the reading reaches it, so that they are in the cache and stay there.

    blocks: yields (end, shards) as `CropSampler.blocks` does. lag: fillings into a block before the next is asked for; by then
    all ranks have left the block before it, for they share the cache and none gets further ahead of another. stop: an
    Event that ends it. Failures are left to the reading, which meets them when it needs the shard.
    """

    def __init__(self, reader, blocks, lag, stop):
        self.reader, self.blocks, self.lag, self.stop = reader, blocks, lag, stop
        self.end, self.now, self.asked_from = 0, [], None  # None: the next block has been asked for
        self.next_end, self.next = next(blocks)
        self.needed, self.opened, self.lock = set(self.next), {}, threading.Lock()  # opened: shard -> file
        self.wanted = queue.SimpleQueue()

    def __enter__(self):
        self.reader.stop = self.stop
        if self.reader.split.is_cached:
            for _ in range(FETCHERS):
                threading.Thread(target=self._run, name="fetch-ahead", daemon=True).start()
        self._ask_for(self.next)
        return self

    def __exit__(self, *_):
        self.wanted.put(None)
        self._let_go(set())
        self.reader.stop = None

    def reach(self, slot, number):
        """Tell that filling `number` has come to a slot: blocks before it are let go, the one behind its own is asked for."""
        while slot >= self.end:
            self.end, self.now = self.next_end, self.next
            self.next_end, self.next = next(self.blocks)
            self._let_go({*self.now, *self.next})
            if self.asked_from is not None:
                self._ask_for(self.now)
            self.asked_from = number + self.lag
        if self.asked_from is not None and number >= self.asked_from:
            self._ask_for(self.next)
            self.asked_from = None

    def _let_go(self, needed):
        self.reader.forget(needed)
        with self.lock:
            self.needed = needed
            for shard in self.opened.keys() - needed:
                self.opened.pop(shard).close()

    def _ask_for(self, shards):
        for shard in shards:
            self.wanted.put(shard)

    def _run(self):
        while (shard := self.wanted.get()) is not None and not self.stop.is_set():
            if shard in self.opened or shard not in self.needed:  # the reading may have passed it
                continue
            try:
                file = self.reader.split.shards[shard].open(stop=self.stop)
            except (UserError, Stopped):
                continue
            with self.lock:
                if shard in self.needed and shard not in self.opened:
                    self.opened[shard] = file
                else:
                    file.close()
        self.wanted.put(None)  # for the other threads
