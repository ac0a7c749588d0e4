"""A CUDA device that exists only as a record: finds missing synchronisation between streams without a GPU.

Inside `checked_streams()` the code under test sees CUDA: tensors on `DEVICE` say that they are there; streams, events
and page-locked memory exist. Operations are computed on the CPU at once, so values can be compared, and each is
recorded as a kernel of its thread's current stream that reads and writes ranges of memory.
`torch.cuda._sanitizer.EventHandler` decides by vector clocks which of them are ordered.

The host is a participant, as one more stream: what it launches comes after what it has waited for. Threads of the host
count as one, in the order in which they happened to run; a race that needs another order of threads is not found.

Found, and reported when the context ends (`StreamErrors`):

- `race`: two streams use the same memory, one of them writes, and neither waits for the other;
- `host-access`: the host reads page-locked memory (also by `.numpy()`) before the copy into it is known to be over, or
  writes there before a copy out of it is. A copy from the device puts its bytes there only once the host has waited
  for it: until then the memory holds `0xA5`;
- `freed-in-use`: memory goes back to the caching allocator, which may hand it out again on the stream of its
  allocation, while another stream still uses it and `record_stream` was not called;
- `unfinished-event`: `elapsed_time` of events that the host has not waited for;
- `self-wait`: a stream waits for itself, which orders nothing;
- `pageable-copy`: a copy from the device with `non_blocking` into memory that is not page-locked.

Page-locked memory comes from torch's caching host allocator, which rounds sizes up to powers of two, keeps what was
freed, and does not hand out freed memory before the copies of its tensors are over; so freeing it is never an error.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import itertools
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.cuda._sanitizer import (
    FACTORY_FUNCTION_REGEX,
    Access,
    EventHandler,
    TensorInfo,
    UnsynchronizedAccessError,
)
from torch.cuda._sanitizer import zip_arguments as named_arguments
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)
"""With its index: torch asks the driver for the current one where it is missing."""

_HOST = -1
_POISON = 0xA5
_FRAMES = 4
_REPOSITORY = str(Path(__file__).parent.parent)
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_PINNING = (torch.ops.aten._pin_memory.default, torch.ops.aten.pin_memory.default)

_active: StreamChecker | None = None


class StreamErrors(AssertionError):
    """What a checker found; `kinds` are the names in the module's description."""

    def __init__(self, findings: Sequence[tuple[str, str]]) -> None:
        self.kinds = [kind for kind, _ in findings]
        super().__init__("\n\n".join(f"{kind}: {text}" for kind, text in findings))


class CudaTensor(torch.Tensor):
    """A tensor that says it is on `DEVICE`; `elem` holds its values, on the CPU."""

    elem: torch.Tensor
    owner: _Owner | None

    @staticmethod
    def __new__(cls, elem: torch.Tensor, owner: _Owner | None) -> CudaTensor:
        found = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device=DEVICE,
        )
        found.elem, found.owner = elem, owner
        return found

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"CudaTensor({self.elem!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # With these torch would ask the driver for the device before it comes to any operation.
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            assert _active is not None, "a tensor of the checker outlived it"
            return _active.index(func, *args)
        if func is torch.Tensor.contiguous:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0] if args[0].is_contiguous() else args[0].clone(memory_format=torch.contiguous_format)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert _active is not None, "a tensor of the checker outlived it"
        return _active.dispatch(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees the operations that have no `CudaTensor` among their arguments; one for each thread."""

    def __init__(self, checker: StreamChecker) -> None:
        super().__init__()
        self._checker = checker

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._checker.dispatch(func, args, kwargs or {})


class _Owner:
    """Dies with the last tensor over its memory."""

    def __init__(self, memory: _Memory) -> None:
        self.memory = memory


class _Memory:
    """What one allocation holds, as disjoint ranges of bytes with a record each.

    Args:
        start: Address.
        num_bytes: Size.
        stream: Of the allocation; None for page-locked memory.
        storage: Keeps the bytes in place until the record is closed.
        records: Of the event handler.
    """

    _keys = itertools.count(1)

    def __init__(
        self, start: int, num_bytes: int, stream: int | None, storage: object, records: dict[int, TensorInfo]
    ) -> None:
        self.start, self.stop = start, start + num_bytes
        self.stream = stream
        self.storage = storage
        self.recorded_streams: set[int] = set()
        self._records = records
        self._ranges = [(start, self.stop, next(self._keys))]
        records[self._ranges[0][2]] = TensorInfo(None)

    def keys(self, start: int, stop: int) -> list[int]:
        """Of the records of exactly these bytes."""
        for address in (start, stop):
            self._split(address)
        return [key for first, last, key in self._ranges if start <= first and last <= stop]

    def accesses(self) -> Iterator[Access]:
        """The last write of every range, and the reads since."""
        for _, _, key in self._ranges:
            info = self._records[key]
            yield from info.reads
            if info.write is not None:
                yield info.write

    def close(self) -> None:
        """Forgets the records."""
        for _, _, key in self._ranges:
            del self._records[key]

    def _split(self, address: int) -> None:
        for index, (start, stop, key) in enumerate(self._ranges):
            if start < address < stop:
                other, info = next(self._keys), self._records[key]
                self._records[other] = TensorInfo(info.allocation_stack_trace, list(info.reads), info.write)
                self._ranges[index : index + 1] = [(start, address, key), (address, stop, other)]
                return


class Stream:
    """Stands in for `torch.cuda.Stream`."""

    def __init__(self, device: object = None, priority: int = 0, *, number: int | None = None) -> None:
        assert _active is not None, "made outside of checked_streams()"
        self._checker = _active
        self.device = DEVICE
        self.cuda_stream = self._checker.new_stream() if number is None else number

    def wait_stream(self, other: Stream) -> None:
        event = Event()
        event.record(other)
        if other.cuda_stream == self.cuda_stream:
            self._checker.report("self-wait", f"stream {self.cuda_stream} waits for itself")
        self.wait_event(event)

    def wait_event(self, event: Event) -> None:
        with self._checker.recording() as handler:
            handler._handle_event_wait(event.number, self.cuda_stream)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        with self._checker.waiting() as handler:
            handler._handle_stream_synchronization(self.cuda_stream)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.cuda_stream == self.cuda_stream

    def __hash__(self) -> int:
        return self.cuda_stream


class Event:
    """Stands in for `torch.cuda.Event`. `query` says no once to a host that has not waited, then yes."""

    def __init__(self, enable_timing: bool = False, **_options: bool) -> None:
        assert _active is not None, "made outside of checked_streams()"
        self._checker = _active
        self._timing = enable_timing
        self._time: float | None = None
        self._asked = False
        with self._checker.recording() as handler:
            self.number = self._checker.new_number()
            handler._handle_event_creation(self.number)

    def record(self, stream: Stream | None = None) -> None:
        number = (stream or self._checker.current_stream()).cuda_stream
        with self._checker.recording() as handler:
            # Something of its own that the stream does: what precedes it may be over and the event not yet.
            handler.seq_num += 1
            handler.syncs.update_seq_num(number, handler.seq_num)
            handler._handle_event_record(self.number, number)
        self._time, self._asked = time.perf_counter(), False

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self._checker.current_stream()).wait_event(self)

    def synchronize(self) -> None:
        with self._checker.waiting() as handler:
            handler._handle_event_synchronization(self.number)

    def query(self) -> bool:
        if not self._checker.is_over(self.number):
            if not self._asked:
                self._asked = True
                return False
            self.synchronize()
        return True

    def elapsed_time(self, end: Event) -> float:
        for event in (self, end):
            if not event._timing or event._time is None:
                raise RuntimeError("both events must be recorded, with timing enabled")
            if not self._checker.is_over(event.number):
                self._checker.report("unfinished-event", "elapsed_time of an event that need not have finished")
                raise RuntimeError("CUDA error: device not ready")
        assert self._time is not None
        assert end._time is not None
        return (end._time - self._time) * 1e3


class StreamChecker:
    """The record of one context.

    Attributes:
        device_limit: Bytes of the device's memory; an allocation beyond them raises `torch.OutOfMemoryError`.
        pinned_limit: Bytes that may be page-locked; beyond them an allocation raises what a failing cudaHostAlloc does.
        device_bytes: Allocated on the device at the moment.
        device_peak: The most there was.
        emptied: `device_bytes` at each `empty_cache`.
        kernels: How often each operation was launched on the device.
    """

    def __init__(self) -> None:
        self.findings: list[tuple[str, str]] = []
        self.device_limit = 2**40
        self.pinned_limit = 2**40
        self.device_bytes = 0
        self.device_peak = 0
        self.emptied: list[int] = []
        self.kernels: Counter[str] = Counter()
        self._handler = EventHandler()
        self._handler._handle_stream_creation(_HOST)
        self._lock = threading.RLock()
        self._local = threading.local()
        self._numbers = itertools.count(1)
        self._owners: weakref.WeakValueDictionary[int, _Owner] = weakref.WeakValueDictionary()
        self._pinned: list[_Memory] = []
        self._pinned_live: Counter[int] = Counter()
        self._pinned_peak: Counter[int] = Counter()
        # Memory whose last tensor is gone. Its bytes stay in place until its record is closed.
        self._freed: deque[_Memory] = deque()
        # Copies to the host: stream, sequence number, where to, what.
        self._arriving: list[tuple[int, int, torch.Tensor, torch.Tensor]] = []

    @property
    def pinned_bytes(self) -> int:
        """Page-locked memory, as torch's allocator holds it: powers of two, and none is ever given back."""
        return sum(size * number for size, number in self._pinned_peak.items())

    def report(self, kind: str, text: str) -> None:
        """Adds a finding."""
        self.findings.append((kind, text))

    def new_number(self) -> int:
        return next(self._numbers)

    def new_stream(self) -> int:
        with self.recording() as handler:
            number = self.new_number()
            handler._handle_stream_creation(number)
            return number

    @contextmanager
    def recording(self) -> Iterator[EventHandler]:
        """Access to the record, for one thread at a time and after all that was freed before."""
        with self._lock:
            while self._freed:
                self._close(self._freed.popleft())
            yield self._handler

    @contextmanager
    def waiting(self) -> Iterator[EventHandler]:
        """As `recording`, for an action after which the host knows more."""
        with self.recording() as handler:
            yield handler
            arriving, self._arriving = self._arriving, []
            for copy in arriving:
                stream, number, target, values = copy
                if handler.syncs.is_ordered_after(_HOST, number, stream):
                    with self._unseen():
                        target.copy_(values)
                else:
                    self._arriving.append(copy)

    def is_over(self, event: int) -> bool:
        """Whether the host knows that an event has finished."""
        with self.recording() as handler:
            recorded = handler.syncs.recorded_sync_states[event]
            return all(handler.syncs.is_ordered_after(_HOST, number, stream) for stream, number in recorded.items())

    # Streams of threads

    def current_stream(self, device: object = None) -> Stream:
        found: Stream | None = getattr(self._local, "stream", None)
        return found or Stream(number=0)

    def default_stream(self, device: object = None) -> Stream:
        return Stream(number=0)

    @contextmanager
    def in_stream(self, stream: Stream | None) -> Iterator[None]:
        before = getattr(self._local, "stream", None)
        self._local.stream = stream or before
        try:
            yield
        finally:
            self._local.stream = before

    def synchronize(self, device: object = None) -> None:
        with self.waiting() as handler:
            handler._handle_device_synchronization()

    # Operations

    def kernel(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Runs a function on the CPU as one kernel: reads its arguments' tensors, allocates and writes its results'.

        Args:
            name: For messages.
            function: Of tensors on the CPU.
            args: Tensors on the device, also in dataclasses and containers.
        """
        with self.recording():
            read: list[CudaTensor] = []

            def values(tensor: torch.Tensor) -> torch.Tensor:
                assert isinstance(tensor, CudaTensor), "a kernel reads tensors of the device"
                read.append(tensor)
                return tensor.elem

            with self._unseen():
                found = function(*(_map_tensors(arg, values) for arg in args))
            written: list[CudaTensor] = []

            def wrapped(tensor: torch.Tensor) -> torch.Tensor:
                written.append(self._wrap(tensor))
                return written[-1]

            out = _map_tensors(found, wrapped)
            self._launch(name, read, written)
            return out

    def dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operation of torch."""
        if getattr(self._local, "unseen", False):
            return func(*args, **kwargs)
        if func in _PINNING:
            return self._pin(args[0])
        if func is torch.ops.aten.is_pinned.default:
            return self._pinned_memory(args[0]) is not None
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_device = any(isinstance(tensor, CudaTensor) for tensor in tensors) or _is_device(kwargs.get("device"))
        if not on_device and not kwargs.get("pin_memory") and not self._pinned:
            return func(*args, **kwargs)
        # In inference mode operations come whole that are made of others.
        if func not in _COPIES and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with _Mode(self):
                return func.decompose(*args, **kwargs)
        with self.recording():
            if func in _COPIES and on_device:
                return self._copy(func, args, kwargs)
            if on_device:
                return self._on_device(func, args, kwargs, tensors)
            return self._on_host(func, args, kwargs)

    def index(self, func: Any, target: torch.Tensor, index: Any, value: Any = None) -> torch.Tensor | None:
        """`target[index]`, and `target[index] = value`."""
        indices = [leaf for leaf in pytree.tree_leaves(index) if isinstance(leaf, (torch.Tensor, list, np.ndarray))]
        if not indices and func is torch.Tensor.__getitem__:
            with self.recording(), self._unseen():
                return self._wrap(_elem(target)[index])
        if not indices:
            view = self.index(torch.Tensor.__getitem__, target, index)
            assert view is not None
            view.copy_(value if isinstance(value, torch.Tensor) else torch.tensor(value, device=DEVICE))
            return None
        with self.recording():
            read = [one for one in (*indices, value) if isinstance(one, torch.Tensor)]
            if any(isinstance(one, CudaTensor) and one.dtype == torch.bool for one in indices):
                self.current_stream().synchronize()  # how many there are decides the shape
            inner = pytree.tree_map_only(CudaTensor, _elem, index)
            if func is torch.Tensor.__getitem__:
                with self._unseen():
                    found = self._wrap(_elem(target)[inner])
                self._launch("index", [target, *read], [found])
                return found
            with self._unseen():
                _elem(target)[inner] = _elem(value) if isinstance(value, torch.Tensor) else value
            self._launch("index_put_", read, [target])
            return None

    def host_access(self, tensor: torch.Tensor, *, writes: bool, name: str) -> None:
        """The host uses a tensor's memory."""
        with self.recording():
            memory = self._pinned_memory(tensor)
            if memory is not None:
                keys = _keys_of(memory, tensor)
                self._access(_HOST, set() if writes else keys, keys if writes else set(), name)

    def record_stream(self, tensor: torch.Tensor, stream: Stream) -> None:
        assert isinstance(tensor, CudaTensor), "record_stream of a tensor that is not on the device"
        if tensor.owner is not None:
            tensor.owner.memory.recorded_streams.add(stream.cuda_stream)

    def _on_device(self, func: Any, args: Any, kwargs: Any, tensors: Sequence[torch.Tensor]) -> Any:
        read, written = _arguments(func, args, kwargs)
        by_elem = {id(tensor.elem): tensor for tensor in tensors if isinstance(tensor, CudaTensor)}
        for tensor in tensors:
            # As an index on the CPU: torch copies it there and waits.
            if not isinstance(tensor, CudaTensor) and tensor.dim():
                self.host_access(tensor, writes=False, name=str(func))
        if _is_device(kwargs.get("device")):
            kwargs = kwargs | {"device": torch.device("cpu")}
        inner_args, inner_kwargs = pytree.tree_map_only(CudaTensor, lambda tensor: tensor.elem, (args, kwargs))
        with self._unseen():
            found = func(*inner_args, **inner_kwargs)
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)

        def wrapped(elem: torch.Tensor) -> torch.Tensor:
            if id(elem) in by_elem:
                return by_elem[id(elem)]
            out = self._wrap(elem)
            if not is_view:
                written.append(out)
            return out

        out = pytree.tree_map_only(torch.Tensor, wrapped, found)
        self._launch(str(func), [tensor for tensor in read if isinstance(tensor, CudaTensor)], written)
        if not isinstance(found, (torch.Tensor, tuple, list, type(None))) or func is torch.ops.aten.nonzero.default:
            self.current_stream().synchronize()  # a value of the device's that the host has: `item`, or a shape
        return out

    def _on_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("pin_memory"):
            with self._unseen():
                found = func(*args, **kwargs | {"pin_memory": False})
                return self._page_locked(found)
        read, written = _arguments(func, args, kwargs)
        for tensors, writes in ((read, False), (written, True)):
            for tensor in tensors:
                self.host_access(tensor, writes=writes, name=str(func))
        with self._unseen():
            return func(*args, **kwargs)

    def _copy(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        if func is torch.ops.aten.copy_.default:
            target, source = args[:2]
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        else:
            source, target = args[0], None
            waits = not kwargs.get("non_blocking", False)
        with self._unseen():
            values = source.elem if isinstance(source, CudaTensor) else source
            if target is None:
                device = kwargs.get("device")
                to_device = _is_device(device) if device is not None else isinstance(source, CudaTensor)
                memory_format = kwargs.get("memory_format") or torch.preserve_format
                made = values.to(kwargs.get("dtype") or values.dtype, copy=True, memory_format=memory_format)
                target = self._wrap(made) if to_device else made if waits else self._page_locked(made)
            else:
                made = target.elem if isinstance(target, CudaTensor) else target
                values = values.to(made.dtype).expand(made.shape).clone()
        if isinstance(target, CudaTensor):
            self._launch(str(func), [source], [target])
            with self._unseen():
                made.copy_(values)
            waits = waits and not isinstance(source, CudaTensor)
        else:
            number = self._launch(str(func), [source], [target])
            if waits:
                with self._unseen():
                    made.copy_(values)
            else:
                self._arrive_later(number, target, values)
        if waits:
            self.current_stream().synchronize()
        return target

    def _arrive_later(self, number: int, target: torch.Tensor, values: torch.Tensor) -> None:
        if self._pinned_memory(target) is None:
            self.report("pageable-copy", "a copy from the device does not wait, into memory that is not page-locked")
        with self._unseen():
            values = values.to(target.dtype, copy=True)
            poison = torch.full((values.element_size(),), _POISON, dtype=torch.uint8)
            target.copy_(values.logical_not() if target.dtype == torch.bool else poison.view(target.dtype))
        self._arriving.append((self.current_stream().cuda_stream, number, target, values))

    def _launch(self, name: str, read: Sequence[torch.Tensor], written: Sequence[torch.Tensor]) -> int:
        """A kernel of the current stream; returns its sequence number."""
        stream = self.current_stream().cuda_stream
        keys_read, keys_written = (
            {key for tensor in tensors for key in self._tensor_keys(tensor)} for tensors in (read, written)
        )
        states = self._handler.syncs.current_sync_states
        # The host launches it after whatever it has waited for.
        self._handler.syncs._state_wait_for_other(states[stream], states[_HOST])
        if keys_read or keys_written:
            self.kernels[name] += 1
        self._access(stream, keys_read - keys_written, keys_written, name)
        return self._handler.seq_num

    def _access(self, stream: int, read: set[int], written: set[int], name: str) -> None:
        aliases: dict[int, list[str]] = {key: [] for key in read | written}
        for error in self._handler._handle_kernel_launch(stream, read, written, set(), name, aliases):
            assert isinstance(error, UnsynchronizedAccessError)
            kind = "host-access" if _HOST in (error.current_access.stream, error.previous_access.stream) else "race"
            self.report(kind, f"{_said(error.current_access)}\n  not ordered after {_said(error.previous_access)}")

    def _tensor_keys(self, tensor: torch.Tensor) -> set[int]:
        if isinstance(tensor, CudaTensor):
            return set() if tensor.owner is None else _keys_of(tensor.owner.memory, tensor.elem)
        memory = self._pinned_memory(tensor)
        return set() if memory is None else _keys_of(memory, tensor)

    # Memory

    def _wrap(self, elem: torch.Tensor) -> CudaTensor:
        """A tensor on the device, over memory that is known or else allocated on the current stream."""
        storage = elem.untyped_storage()
        if storage.nbytes() == 0:
            return CudaTensor(elem, None)
        owner = self._owners.get(storage.data_ptr())
        if owner is None:
            if self.device_bytes + storage.nbytes() > self.device_limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than the checker's device has")
            stream = self.current_stream().cuda_stream
            records = self._handler.tensors_accessed.accesses
            owner = _Owner(_Memory(storage.data_ptr(), storage.nbytes(), stream, storage, records))
            self._owners[storage.data_ptr()] = owner
            self.device_bytes += storage.nbytes()
            self.device_peak = max(self.device_peak, self.device_bytes)
            weakref.finalize(owner, self._freed.append, owner.memory).atexit = False
        return CudaTensor(elem, owner)

    def _page_locked(self, values: torch.Tensor) -> torch.Tensor:
        """A copy in page-locked memory."""
        num_bytes = values.numel() * values.element_size()
        if num_bytes == 0:
            return values
        size = 1 << (num_bytes - 1).bit_length()
        if self.pinned_bytes + size > self.pinned_limit:
            raise torch.AcceleratorError("CUDA error: out of memory")
        memory = (ctypes.c_uint8 * num_bytes)()
        # A second object over the same bytes: they must outlive it until the record is closed.
        owner = (ctypes.c_uint8 * num_bytes).from_buffer(memory)
        records = self._handler.tensors_accessed.accesses
        found = _Memory(ctypes.addressof(memory), num_bytes, None, memory, records)
        self._pinned.append(found)
        self._pinned_live[size] += 1
        self._pinned_peak[size] = max(self._pinned_peak[size], self._pinned_live[size])
        weakref.finalize(owner, self._freed.append, found).atexit = False
        flat = torch.frombuffer(owner, dtype=torch.uint8)
        return flat.view(values.dtype).view(values.shape).copy_(values)

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        with self.recording():
            if self._pinned_memory(tensor) is not None:
                return tensor
            with self._unseen():
                return self._page_locked(tensor)

    def _pinned_memory(self, tensor: torch.Tensor) -> _Memory | None:
        """By address, as the driver knows it."""
        if isinstance(tensor, CudaTensor) or not self._pinned or tensor.device.type != "cpu" or not tensor.numel():
            return None
        address = tensor.data_ptr()
        return next((memory for memory in self._pinned if memory.start <= address < memory.stop), None)

    def _close(self, memory: _Memory) -> None:
        if memory.stream is None:
            self._pinned.remove(memory)
            self._pinned_live[1 << (memory.stop - memory.start - 1).bit_length()] -= 1
        else:
            self.device_bytes -= memory.stop - memory.start
            for access in memory.accesses():
                known = {memory.stream, *memory.recorded_streams}
                if access.stream in known or self._handler.syncs.is_ordered_after(
                    memory.stream, access.seq_num, access.stream
                ):
                    continue
                text = f"memory of stream {memory.stream} is free again, without record_stream, before {_said(access)}"
                self.report("freed-in-use", text)
                break
        memory.close()

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """What this thread does here is the checker's own."""
        before = getattr(self._local, "unseen", False)
        self._local.unseen = True
        try:
            yield
        finally:
            self._local.unseen = before

    def _empty_cache(self) -> None:
        with self.recording():
            self.emptied.append(self.device_bytes)

    def _reset_peak(self, device: object = None) -> None:
        with self.recording():
            self.device_peak = self.device_bytes

    def _allocated(self, device: object = None) -> int:
        with self.recording():
            return self.device_bytes

    def _most_allocated(self, device: object = None) -> int:
        return self.device_peak

    def _memory_info(self, device: object = None) -> tuple[int, int]:
        return self.device_limit - self._allocated(), self.device_limit

    def _device_name(self, device: object = None) -> str:
        return "a CUDA device of the checker"

    def _device_capability(self, device: object = None) -> tuple[int, int]:
        return 9, 0


@contextmanager
def checked_streams() -> Iterator[StreamChecker]:
    """Replaces CUDA by a checker, in this thread and in those that are started here.

    Raises:
        StreamErrors: At the end, if something was found; also where the code under test failed, which may be why.
    """
    global _active
    assert _active is None, "one checker at a time"
    if torch.cuda.is_available():
        # torch notes the first use of CUDA for good, and inside it would not be the real one.
        torch.cuda.init()
    checker = StreamChecker()
    with pytest.MonkeyPatch.context() as patch:
        _patch_cuda(patch, checker)
        _active = checker
        try:
            with _Mode(checker):
                yield checker
        except Exception as error:
            if checker.findings:
                raise StreamErrors(checker.findings) from error
            raise
        finally:
            gc.collect()
            with checker.recording():
                _active = None
    if checker.findings:
        raise StreamErrors(checker.findings)


def _patch_cuda(patch: pytest.MonkeyPatch, checker: StreamChecker) -> None:
    run_thread, to_list = threading.Thread.run, torch.Tensor.tolist
    to_numpy = torch.Tensor.numpy

    def run(self: threading.Thread) -> None:
        with _Mode(checker):
            run_thread(self)

    def numpy(self: torch.Tensor, **options: Any) -> Any:
        # The array may be read and written from now on, unseen.
        checker.host_access(self, writes=True, name="Tensor.numpy")
        return to_numpy(self, **options)

    def tolist(self: torch.Tensor) -> Any:
        if isinstance(self, CudaTensor):
            return self.cpu().tolist()
        checker.host_access(self, writes=False, name="Tensor.tolist")
        return to_list(self)

    patch.setattr(threading.Thread, "run", run)
    patch.setattr(torch.Tensor, "numpy", numpy)
    patch.setattr(torch.Tensor, "tolist", tolist)
    patch.setattr(torch.Tensor, "record_stream", lambda self, stream: checker.record_stream(self, stream))
    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "stream": checker.in_stream,
        "current_stream": checker.current_stream,
        "default_stream": checker.default_stream,
        "synchronize": checker.synchronize,
        "device": nullcontext,
        "current_device": lambda: 0,
        "empty_cache": checker._empty_cache,
        "mem_get_info": checker._memory_info,
        "memory_allocated": checker._allocated,
        "max_memory_allocated": checker._most_allocated,
        "reset_peak_memory_stats": checker._reset_peak,
        "get_device_name": checker._device_name,
        "get_device_capability": checker._device_capability,
        "_lazy_init": lambda: None,
    }.items():
        patch.setattr(torch.cuda, name, value)


def _said(access: Access) -> str:
    """What was done where, with the project's lines that led there, innermost last."""
    lines = [
        f"\n    {frame.filename}:{frame.lineno} in {frame.name}"
        for frame in access.stack_trace
        if frame.filename.startswith(_REPOSITORY) and frame.filename != __file__
    ]
    who = "the host" if access.stream == _HOST else f"stream {access.stream}"
    return f"{who} {access.type} it ({access.operator}), from{''.join(lines[-_FRAMES:])}"


def _arguments(func: Any, args: Any, kwargs: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The tensors that an operation reads, and those that it writes."""
    read: list[torch.Tensor] = []
    written: list[torch.Tensor] = []
    if FACTORY_FUNCTION_REGEX.match(func._schema.name.removeprefix("aten::")):
        return read, written
    for argument, value in named_arguments(func._schema, args, kwargs):
        tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        if argument.alias_info is None:
            read += tensors
        elif argument.alias_info.is_write:
            written += tensors
    return read, written


def _keys_of(memory: _Memory, tensor: torch.Tensor) -> set[int]:
    """Of the bytes from a tensor's first element to its last."""
    if not tensor.numel():
        return set()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return set(memory.keys(start, start + (last + 1) * tensor.element_size()))


def _map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **{name: _map_tensors(one, function) for name, one in fields.items()})
    if isinstance(value, dict):
        return {key: _map_tensors(one, function) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_tensors(one, function) for one in value)
    return value


def _elem(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.elem if isinstance(tensor, CudaTensor) else tensor


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"
