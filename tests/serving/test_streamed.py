"""Streams: they end when the time is up, or their reader is gone, and let go of what they hold."""

import asyncio

import pytest

from trimtab.serving import streamed
from trimtab.serving.refusals import TimeoutExceededError
from trimtab.serving.streamed import GoneError, Streamed, event, in_time, while_there


class Pieces:
    """A generator that tells when it is closed."""

    def __init__(self, wait=0.0):
        self.wait, self.closed = wait, False

    async def __call__(self):
        try:
            for number in range(5):
                await asyncio.sleep(self.wait)
                yield b"%d" % number
        finally:
            self.closed = True


async def never():
    await asyncio.Event().wait()


def disconnecting(after):
    async def receive():
        await asyncio.sleep(after)
        return {"type": "http.disconnect"}

    return receive


def test_a_generator_in_time_is_what_it_is():
    async def main():
        return [piece async for piece in in_time(Pieces()(), 5)]

    assert asyncio.run(main()) == [b"0", b"1", b"2", b"3", b"4"]


def test_time_is_up_whichever_task_goes_on():
    pieces = Pieces(0.05)

    async def main():
        timed = in_time(pieces(), 0.12)
        told = [await anext(timed)]  # here by one task, there by others
        while True:
            told.append(await asyncio.create_task(anext(timed)))

    with pytest.raises(TimeoutExceededError):
        asyncio.run(main())
    assert pieces.closed


def test_work_ends_when_its_client_is_gone():
    async def main():
        with pytest.raises(GoneError):
            await while_there(disconnecting(0.01), never())
        assert await while_there(never, asyncio.sleep(0.01, "done")) == "done"
        with pytest.raises(ZeroDivisionError):
            await while_there(never, failing())
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


async def failing():
    return 1 // 0


def sent(pieces, receive, send):
    ended = []

    async def main():
        begun = pieces()
        await anext(begun)
        await Streamed(begun, {}, ended.append)({"type": "http"}, receive, send)

    asyncio.run(main())
    return ended, pieces.closed


def test_a_stream_is_sent_to_its_end():
    got = []

    async def send(message):
        got.append(message)

    assert sent(Pieces(), never, send) == ([True], True)
    assert b"".join(message.get("body", b"") for message in got) == b"1234" and not got[-1].get("more_body")


def test_a_client_that_goes_closes_the_stream():
    async def send(message):
        await asyncio.sleep(0)

    assert sent(Pieces(0.05), disconnecting(0.08), send) == ([False], True)


def test_a_client_that_takes_nothing_is_gone(monkeypatch):
    monkeypatch.setattr(streamed, "STALL", 0.05)

    async def send(message):
        if message.get("body"):
            await never()

    assert sent(Pieces(), never, send) == ([False], True)


def test_a_client_that_breaks_off_while_being_sent_to():
    async def send(message):
        raise OSError

    assert sent(Pieces(), never, send) == ([False], True)


def test_events_hold_no_line_breaks_of_their_own():
    assert event({"a": "\n\u2028\r"}).count(b"\n") == 2
