"""One connection, fed by hand: every way bytes can be split, cut short or be wrong."""

import asyncio
import contextlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.core.errors import Unavailable
from graftwork.gateway import connection as module
from graftwork.gateway.connection import Connection

PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\nhello world"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = CHUNKED_HEAD + b"6\r\nhello \r\n5;ext=1\r\nworld\r\n0\r\ntrailer: x\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello world"
CONTINUE = b"HTTP/1.1 100 Continue\r\nx-early: 1\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that records what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self.reading = True

    def write(self, data) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def opened() -> tuple[Connection, Wire]:
    connection, wire = Connection(asyncio.get_running_loop()), Wire()
    connection.connection_made(wire)
    connection.start(b"GET / HTTP/1.1\r\n\r\n")
    return connection, wire


async def read(connection: Connection) -> bytes:
    await connection.head(1)
    body = b""
    while piece := await connection.chunk(1):
        body += piece
    return body


@pytest.mark.parametrize(
    ("answer", "body", "keeps"),
    [
        (PLAIN, b"hello world", True),
        (CHUNKED, b"hello world", True),
        (CONTINUE, b"hello world", True),
        (UNTIL_CLOSE, b"hello world", False),
        (EMPTY, b"", True),
        (PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"), b"hello world", False),
    ],
)
async def test_an_answer_split_at_any_byte_reads_the_same(answer, body, keeps):
    for cut in range(1, len(answer)):
        connection, wire = opened()
        reader = asyncio.ensure_future(read(connection))
        connection.data_received(answer[:cut])
        await asyncio.sleep(0)
        connection.data_received(answer[cut:])
        if not keeps:
            connection.eof_received()
            wire.closing = True
        assert await reader == body
        assert connection.reusable is keeps
        assert b"x-early" not in connection.incoming.headers


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([PLAIN, CHUNKED, CONTINUE]),
    st.lists(st.integers(1, len(CONTINUE)), max_size=12),
    st.data(),
)
def test_an_answer_in_any_pieces_or_cut_short(answer, cuts, data):
    end = data.draw(st.integers(0, len(answer)))

    async def go() -> None:
        connection, _ = opened()
        reader = asyncio.ensure_future(read(connection))
        edges = sorted({0, end, *(c for c in cuts if c < end)})
        for left, right in pairwise(edges):
            connection.data_received(answer[left:right])
            await asyncio.sleep(0)
        connection.connection_lost(None)
        if end == len(answer):
            assert await reader == b"hello world"
        else:
            with pytest.raises(Unavailable) as caught:
                await reader
            assert caught.value.code == module.CLOSED
            assert connection.incoming.touched is (end > 0)

    asyncio.run(go())


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + PLAIN,
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * (module.HEAD_LIMIT + 1),
        b"HTTP/1.1 200 OK\r\n" + b"x-many: 0123456789\r\n" * 5000 + b"\r\n",
    ],
    ids=["not-http", "both-lengths", "bad-chunk", "two-lengths", "upgrade", "only-1xx", "endless", "many"],
)
async def test_what_is_not_a_sane_answer_is_refused(answer):
    connection, wire = opened()
    for start in range(0, len(answer), 8192):
        if not wire.closing:
            connection.data_received(answer[start : start + 8192])
    with pytest.raises(Unavailable) as caught:
        await read(connection)
    assert caught.value.code == module.PROTOCOL
    assert wire.closing
    assert not connection.reusable


async def test_trailers_are_bounded_too():
    connection, wire = opened()
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
    for _ in range(5000):
        if not wire.closing:
            connection.data_received(b"x-many: 0123456789\r\n")
    with pytest.raises(Unavailable):
        await read(connection)


async def test_a_slow_reader_pauses_the_socket_and_reading_resumes_it():
    connection, wire = opened()
    size = module.HIGH_WATER + 10
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
    connection.data_received(b"x" * (size - 5))
    assert not wire.reading
    assert len(await connection.chunk(1)) == size - 5
    assert wire.reading
    connection.data_received(b"x" * 5)
    assert await connection.chunk(1) == b"xxxxx"
    assert await connection.chunk(1) == b""


async def test_silence_is_a_timeout_and_closes():
    connection, wire = opened()
    with pytest.raises(Unavailable) as caught:
        await connection.head(0.01)
    assert caught.value.code == module.TIMEOUT
    assert wire.closing


async def test_bytes_nobody_asked_for_poison_the_connection():
    connection, wire = opened()
    connection.data_received(PLAIN)
    assert await read(connection) == b"hello world"
    connection.park(0.0)
    connection.data_received(PLAIN)
    assert wire.closing
    assert not connection.reusable


async def test_a_second_answer_in_the_same_read_poisons_the_connection():
    connection, _ = opened()
    connection.data_received(PLAIN + PLAIN)
    assert await read(connection) == b"hello world"
    assert not connection.reusable


async def test_a_reset_is_not_the_end_of_an_answer_that_ends_with_the_connection():
    connection, _ = opened()
    connection.data_received(UNTIL_CLOSE)
    connection.connection_lost(ConnectionResetError())
    with pytest.raises(Unavailable):
        await read(connection)


async def test_a_connection_serves_again_after_a_whole_answer():
    connection, wire = opened()
    for _ in range(3):
        connection.data_received(CHUNKED)
        assert await read(connection) == b"hello world"
        assert connection.reusable
        connection.park(0.0)
        connection.start(b"again")
    assert wire.written.endswith(b"again")


async def test_a_cancelled_reader_leaves_no_timer_behind():
    connection, _ = opened()
    reader = asyncio.ensure_future(connection.head(60))
    await asyncio.sleep(0)
    reader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reader
    connection.data_received(PLAIN)
    assert await read(connection) == b"hello world"
