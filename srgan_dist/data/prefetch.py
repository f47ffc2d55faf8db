"""Prefetch in threads: batches ahead of the device, and shards of a cached set ahead of the reading."""

import queue
import threading

import torch

from srgan_dist.data.split import FETCHERS
from srgan_dist.storage.cache import Cancelled
from srgan_dist.utils.errors import UserError


class BatchPrefetcher:
    """Calls fill(buffer, n), fill(buffer, n + 1), ... in a thread, ahead of `next`; `next` raises its errors.

    device: of the copies of the buffers. A thread that uses CUDA without a choice takes GPU 0, and memory of
    it.
    """

    def __init__(self, fill, buffers, first, device):
        self.fill, self.first, self.device = fill, first, device
        self.stopped = False
        self.free, self.ready = queue.SimpleQueue(), queue.SimpleQueue()
        for buffer in buffers:
            self.free.put(buffer)
        self.thread = threading.Thread(target=self._run, name="prefetch-batches", daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.free.put(None)
        self.thread.join()

    def next(self):
        """Return the next filled buffer; release it when its content is no longer needed."""
        while True:
            try:
                buffer, error = self.ready.get(timeout=1)
            except queue.Empty:
                assert self.thread.is_alive(), "the thread that prefetches batches has died"
                continue
            if error is None:
                return buffer
            if isinstance(error, Exception):
                raise error
            raise RuntimeError("the thread that prefetches batches was ended") from error

    def release(self, buffer):
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
        except BaseException as error:  # also SystemExit: `next` would wait for a thread that ended silently
            self.ready.put((None, error))


class ShardPrefetcher:
    """Opens the shards of a block before the reading reaches it, so that the cache has and keeps them.

    blocks: yields (end, shards) as `CropSampler.blocks` does. lag: batches into a block before the next is
    fetched; by then all ranks have left the block before it, for they share the cache and none is further
    ahead of another. stop: an Event that ends it. Errors are left to the reading, which raises them when it
    needs the shard.
    """

    def __init__(self, reader, blocks, lag, stop):
        self.reader, self.blocks, self.lag, self.stop = reader, blocks, lag, stop
        self.end, self.current = 0, []  # of the block that is read: its last slot + 1, its shards
        self.fetch_from = (
            None  # the number of the batch at which the next block is fetched; None: it has been
        )
        self.next_end, self.next = next(blocks)
        self.needed, self.opened, self.lock = set(self.next), {}, threading.Lock()  # opened: shard -> file
        self.wanted = queue.SimpleQueue()

    def __enter__(self):
        self.reader.stop = self.stop
        if self.reader.split.is_cached:
            for _ in range(FETCHERS):
                threading.Thread(target=self._run, name="prefetch-shards", daemon=True).start()
        self._fetch(self.next)
        return self

    def __exit__(self, *_):
        self.wanted.put(None)
        self._keep(set())
        self.reader.stop = None

    def reach(self, slot, number):
        """Batch `number` has reached a slot: release the blocks before it, fetch the one after it."""
        while slot >= self.end:
            self.end, self.current = self.next_end, self.next
            self.next_end, self.next = next(self.blocks)
            self._keep({*self.current, *self.next})
            if self.fetch_from is not None:
                self._fetch(self.current)
            self.fetch_from = number + self.lag
        if self.fetch_from is not None and number >= self.fetch_from:
            self._fetch(self.next)
            self.fetch_from = None

    def _keep(self, needed):
        """Close and unmap all shards but these."""
        self.reader.forget(needed)
        with self.lock:
            self.needed = needed
            for shard in self.opened.keys() - needed:
                self.opened.pop(shard).close()

    def _fetch(self, shards):
        for shard in shards:
            self.wanted.put(shard)

    def _run(self):
        while (shard := self.wanted.get()) is not None and not self.stop.is_set():
            if shard in self.opened or shard not in self.needed:  # the reading may have passed it
                continue
            try:
                file = self.reader.split.shards[shard].open(stop=self.stop)
            except (UserError, Cancelled):
                continue
            with self.lock:
                if shard in self.needed and shard not in self.opened:
                    self.opened[shard] = file
                else:
                    file.close()
        self.wanted.put(None)  # for the other threads
