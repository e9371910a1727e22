"""Sinks: the newest update of every answer, and no growth."""

import asyncio

import pytest

from trimtab.decoding.answer import Answer
from trimtab.engines.base import Update
from trimtab.errors import RunError
from trimtab.serving.sink import AsyncSink, SyncSink

DONE = Answer("", "", (), (), (), (), "end")


def test_answers_of_several_requests_are_kept_apart():
    async def main():
        sink = AsyncSink(4)
        for ticket in (7, 8):
            sink.tell([Update(ticket, number, "", DONE) for number in range(2)])
        return [(update.ticket, update.number) async for update in sink.updates()]

    assert asyncio.run(asyncio.wait_for(main(), 5)) == [(7, 0), (7, 1), (8, 0), (8, 1)]


def test_a_slow_reader_gets_the_newest_and_nothing_piles_up():
    async def main():
        sink, told = AsyncSink(1), []
        updates = sink.updates()
        for length in range(1000):
            sink.tell([Update(0, 0, "a" * length)])
        await asyncio.sleep(0)
        assert len(sink._latest) == 1
        told.append((await anext(updates)).text)
        sink.tell([Update(0, 0, "end", DONE)])
        told += [update.text async for update in updates]
        return told

    assert asyncio.run(main()) == ["a" * 999, "end"]


def test_what_breaks_the_engine_breaks_the_wait():
    async def main():
        sink = AsyncSink(1)
        sink.fail(RunError("a", "b", "c"))
        async for _ in sink.updates():
            raise AssertionError

    with pytest.raises(RunError):
        asyncio.run(main())


def test_other_threads_wait_alike():
    sink = SyncSink()
    sink.tell([Update(0, 0, "a")])
    sink.fail(RunError("a", "b", "c"))
    assert [update.text for update in sink.wait()] == ["a"]
    with pytest.raises(RunError):
        sink.wait()
