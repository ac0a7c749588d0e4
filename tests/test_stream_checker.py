"""The stream checker finds each kind of missing synchronisation, and nothing in code that is right."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.stream_checker import DEVICE, StreamErrors, checked_streams


def device_tensor() -> torch.Tensor:
    return torch.arange(64, dtype=torch.float32).to(DEVICE)


def pinned_tensor() -> torch.Tensor:
    return torch.empty(64, pin_memory=True)


def computed_and_read_elsewhere() -> None:
    """The first defect of `pipeline/transfer.py`, with the waiting left out."""
    values, side = device_tensor() * 2, torch.cuda.Stream(DEVICE)
    with torch.cuda.stream(side):
        found = values + 1
    values.record_stream(side)
    torch.cuda.synchronize()
    del found


def read_elsewhere_and_written() -> None:
    values, side = device_tensor() * 2, torch.cuda.Stream(DEVICE)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = values + 1
    values.add_(1)
    torch.cuda.synchronize()
    del found


def written_on_both() -> None:
    values, side = device_tensor(), torch.cuda.Stream(DEVICE)
    values.add_(1)
    with torch.cuda.stream(side):
        values[:32].mul_(2)
    torch.cuda.synchronize()


def uploaded_and_used_without_waiting() -> None:
    with torch.cuda.stream(torch.cuda.Stream(DEVICE)):
        values = device_tensor() * 2
    values.record_stream(torch.cuda.current_stream())
    values.sum().item()


def waited_for_an_earlier_event() -> None:
    side, event = torch.cuda.Stream(DEVICE), torch.cuda.Event()
    event.record()
    values = device_tensor() * 2
    side.wait_event(event)
    with torch.cuda.stream(side):
        found = values + 1
    torch.cuda.synchronize()
    del found


def pinned_memory_written_again() -> None:
    pinned = pinned_tensor()
    pinned.fill_(1)
    values = pinned.to(DEVICE, non_blocking=True)
    pinned.fill_(2)
    torch.cuda.synchronize()
    del values


def pinned_memory_written_again_by_numpy() -> None:
    pinned = pinned_tensor()
    values = pinned.to(DEVICE, non_blocking=True)
    pinned[32:].numpy()[:] = 2
    torch.cuda.synchronize()
    del values


def pinned_memory_copied_into_from_two_streams() -> None:
    pinned, values, side = pinned_tensor(), device_tensor(), torch.cuda.Stream(DEVICE)
    side.wait_stream(torch.cuda.current_stream())
    pinned.copy_(values, non_blocking=True)
    with torch.cuda.stream(side):
        pinned.copy_(values, non_blocking=True)
    torch.cuda.synchronize()


def read_by_the_host_too_early() -> None:
    pinned = pinned_tensor()
    pinned.copy_(device_tensor(), non_blocking=True)
    assert pinned.sum() != sum(range(64)), "the values come with the synchronisation"
    torch.cuda.synchronize()
    assert pinned.sum() == sum(range(64))


def given_to_numpy_too_early() -> None:
    pinned = device_tensor().to("cpu", non_blocking=True)
    array = pinned.numpy()
    assert array[1] != 1
    torch.cuda.synchronize()
    assert array[1] == 1


def given_to_a_list_too_early() -> None:
    device_tensor().to("cpu", non_blocking=True).tolist()
    torch.cuda.synchronize()


def waited_for_another_event() -> None:
    event = torch.cuda.Event()
    event.record()
    pinned = device_tensor().to("cpu", non_blocking=True)
    event.synchronize()
    pinned.numpy()
    torch.cuda.synchronize()


def freed_while_another_stream_reads() -> None:
    values, side = device_tensor() * 2, torch.cuda.Stream(DEVICE)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = values + 1
    del values
    torch.cuda.synchronize()
    del found


def freed_by_another_stream() -> None:
    side, main = torch.cuda.Stream(DEVICE), torch.cuda.current_stream()
    with torch.cuda.stream(side):
        values = device_tensor() * 2
    main.wait_stream(side)
    found = values + 1
    del values
    torch.cuda.synchronize()
    del found


def timed_without_waiting() -> None:
    events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    events[0].record()
    values = device_tensor() * 2
    events[1].record()
    with pytest.raises(RuntimeError, match="not ready"):
        events[0].elapsed_time(events[1])
    del values


def timed_after_waiting_for_the_work_alone() -> None:
    events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    events[0].record()
    pinned, done = device_tensor().to("cpu", non_blocking=True), torch.cuda.Event()
    done.record()
    events[1].record()
    done.synchronize()
    pinned.numpy()
    with pytest.raises(RuntimeError, match="not ready"):
        events[0].elapsed_time(events[1])


def waited_for_itself() -> None:
    """The first defect of `pipeline/transfer.py`, as it stood: inside, the current stream is the side stream."""
    side = torch.cuda.Stream(DEVICE)
    with torch.cuda.stream(side):
        side.wait_stream(torch.cuda.current_stream(DEVICE))


def copied_into_pageable_memory() -> None:
    values = device_tensor()
    target = torch.empty(64)
    target.copy_(values, non_blocking=True)
    torch.cuda.synchronize()


def in_a_thread_of_its_own() -> None:
    values = device_tensor() * 2

    def work() -> None:
        with torch.cuda.stream(torch.cuda.Stream(DEVICE)):
            values.add_(1)
            torch.cuda.synchronize()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


PLANTED: list[tuple[Callable[[], None], str]] = [
    (computed_and_read_elsewhere, "race"),
    (read_elsewhere_and_written, "race"),
    (written_on_both, "race"),
    (uploaded_and_used_without_waiting, "race"),
    (waited_for_an_earlier_event, "race"),
    (in_a_thread_of_its_own, "race"),
    (pinned_memory_copied_into_from_two_streams, "race"),
    (pinned_memory_written_again, "host-access"),
    (pinned_memory_written_again_by_numpy, "host-access"),
    (read_by_the_host_too_early, "host-access"),
    (given_to_numpy_too_early, "host-access"),
    (given_to_a_list_too_early, "host-access"),
    (waited_for_another_event, "host-access"),
    (freed_while_another_stream_reads, "freed-in-use"),
    (freed_by_another_stream, "freed-in-use"),
    (timed_without_waiting, "unfinished-event"),
    (timed_after_waiting_for_the_work_alone, "unfinished-event"),
    (waited_for_itself, "self-wait"),
    (copied_into_pageable_memory, "pageable-copy"),
]


@pytest.mark.parametrize(("planted", "kind"), PLANTED, ids=[planted.__name__ for planted, _ in PLANTED])
def test_what_is_planted_is_found(planted: Callable[[], None], kind: str) -> None:
    with pytest.raises(StreamErrors) as found, checked_streams():
        planted()
    assert set(found.value.kinds) == {kind}, found.value


def test_nothing_is_found_where_all_is_ordered() -> None:
    with checked_streams() as checker:
        side, main = torch.cuda.Stream(DEVICE), torch.cuda.current_stream()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        pinned = torch.arange(64, dtype=torch.float32).pin_memory()
        events[0].record()
        values = pinned.to(DEVICE, non_blocking=True) * 2
        events[1].record()
        events[1].synchronize()
        pinned.fill_(7)  # its copy is over
        side.wait_stream(main)
        with torch.cuda.stream(side):
            back = (values + 1).to("cpu", non_blocking=True)
            values.record_stream(side)
            events[2].record()
        del values
        main.wait_event(events[2])
        while not events[2].query():
            pass
        assert torch.equal(back, torch.arange(64) * 2.0 + 1)
        assert back.numpy()[3] == 7
        assert events[0].elapsed_time(events[1]) >= 0
        assert checker.kernels["aten.mul.Tensor"] == 1


def test_parts_of_one_memory_are_told_apart() -> None:
    """Two halves of page-locked memory, each read when its own copy is over."""
    with checked_streams():
        values, block = device_tensor(), torch.empty(512, dtype=torch.uint8, pin_memory=True)
        halves = [block[:256].view(torch.float32), block[256:].view(torch.float32)]
        events = [torch.cuda.Event(), torch.cuda.Event()]
        for half, event in zip(halves, events, strict=True):
            half.copy_(values, non_blocking=True)
            event.record()
        events[0].synchronize()
        assert halves[0].numpy()[5] == 5
        events[1].synchronize()
        assert halves[1].numpy()[5] == 5


def test_memory_is_counted_as_torch_counts_it() -> None:
    with checked_streams() as checker:
        for _ in range(3):
            held = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for size in (100, 128, 129)]
        assert checker.pinned_bytes == 2 * (128 + 128 + 256), "while new ones are made, the old ones are there"
        del held
        values = torch.zeros(1000, dtype=torch.uint8, device=DEVICE)
        assert torch.cuda.memory_allocated() == 1000
        del values
        assert torch.cuda.memory_allocated() == 0
        assert torch.cuda.max_memory_allocated() == 1000


def current_streams_inside(source: str) -> list[int]:
    """Lines with `current_stream` inside of `with torch.cuda.stream(...)`, where it is that very stream."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.With) and any(
            ast.unparse(item.context_expr).startswith(("torch.cuda.stream(", "cuda.stream(")) for item in node.items
        ):
            inside = [found for part in node.body for found in ast.walk(part)]
            lines += [
                call.lineno for call in inside if isinstance(call, ast.Attribute) and call.attr == "current_stream"
            ]
    return lines


def test_no_stream_asks_for_itself(repository: Path) -> None:
    planted = "with torch.cuda.device(d), torch.cuda.stream(side):\n    side.wait_stream(torch.cuda.current_stream())"
    assert current_streams_inside(planted) == [2]
    files = [path for package in ("pipeline", "trainer") for path in (repository / package).rglob("*.py")]
    assert len(files) > 100
    found = {str(path): lines for path in files if (lines := current_streams_inside(path.read_text()))}
    assert found == {}
