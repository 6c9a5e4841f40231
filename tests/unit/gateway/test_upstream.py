"""The pool and the client against scripted servers on loopback."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from graftwork.core.errors import PlatformError, Unavailable
from graftwork.gateway.upstream import Timeouts, UpstreamClient, split_url

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Script:
    """A server that plays one script per connection: ``reply(n)`` per request, ``None`` hangs up."""

    def __init__(self, *connections) -> None:
        self.connections = list(connections)
        self.requests: list[bytes] = []
        self.opened = 0
        self.hung_up = asyncio.Event()

    async def __call__(self, reader, writer) -> None:
        script = self.connections[min(self.opened, len(self.connections) - 1)]
        self.opened += 1
        try:
            for reply in script:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                if reply is None:
                    return
                writer.write(reply)
                await writer.drain()
            await reader.read()
            self.hung_up.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(*connections):
    script = Script(*connections)
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield script, f"http://127.0.0.1:{port}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
async def client():
    client = UpstreamClient(Timeouts(connect=1, first_byte=1, idle=1, total=5))
    yield client
    client.close()


async def ask(client, url) -> bytes:
    async with await client.post(url, "/v1/x", b"{}", token="t0k") as response:
        return await response.read(1000)


async def test_a_connection_is_kept_and_the_request_is_well_formed(client):
    async with serving([OK, OK, OK]) as (script, url):
        for _ in range(3):
            assert await ask(client, url + "/prefix/") == b"ok"
        assert script.opened == 1
        head, _, body = script.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /prefix/v1/x HTTP/1.1\r\nhost: 127.0.0.1:")
        assert b"authorization: Bearer t0k" in head
        assert body == b"{}"
        client.close()


async def test_a_reused_connection_that_died_idle_is_replaced_once(client):
    async with serving([OK, None], [OK]) as (script, url):
        assert await ask(client, url) == b"ok"
        assert await ask(client, url) == b"ok"
        assert script.opened == 2
        client.close()


async def test_a_fresh_connection_that_dies_is_not_tried_again(client):
    async with serving([None]) as (script, url):
        with pytest.raises(Unavailable) as caught:
            await ask(client, url)
        assert caught.value.code == "upstream_closed"
        assert script.opened == 1


async def test_no_second_try_once_a_byte_of_the_answer_came(client):
    async with serving([OK, b"HTTP/1.1 2"]) as (script, url):
        script.connections = [[OK, b"HTTP/1.1 2", None]]
        await ask(client, url)
        client.timeouts = Timeouts(connect=1, first_byte=0.05, idle=1, total=5)
        with pytest.raises(Unavailable):
            await ask(client, url)
        assert script.opened == 1


async def test_the_second_try_is_the_last(client):
    async with serving([OK, None], [None]) as (script, url):
        await ask(client, url)
        with pytest.raises(Unavailable):
            await ask(client, url)
        assert script.opened == 2


async def test_leaving_a_stream_early_hangs_up_on_the_engine(client):
    async with serving([STREAM + b"5\r\nhello\r\n"]) as (script, url):
        async with await client.post(url, "/v1/x", b"{}", token=None) as response:
            assert await response.chunk() == b"hello"
        await asyncio.wait_for(script.hung_up.wait(), 2)


async def test_a_stream_that_ends_early_fails(client):
    async with (
        serving([STREAM + b"5\r\nhel", None]) as (_, url),
        await client.post(url, "/v1/x", b"{}", token=None) as response,
    ):
        client.timeouts = Timeouts()
        with pytest.raises(Unavailable):
            while await response.chunk():
                pass


@pytest.mark.parametrize(
    ("timeouts", "reply"),
    [
        (Timeouts(first_byte=0.03), b""),
        (Timeouts(idle=0.03), STREAM),
        (Timeouts(total=0.03), STREAM),
    ],
    ids=["first-byte", "idle", "total"],
)
async def test_each_deadline_ends_the_wait(timeouts, reply):
    client = UpstreamClient(timeouts)
    async with serving([reply]) as (_, url):
        with pytest.raises(Unavailable) as caught:
            await ask(client, url)
        assert caught.value.code == "upstream_timeout"


async def test_no_server_is_unreachable(client):
    async with serving([OK]) as (_, url):
        pass
    with pytest.raises(Unavailable) as caught:
        await ask(client, url)
    assert caught.value.code == "upstream_unreachable"


async def test_the_number_of_connections_is_capped(client):
    client = UpstreamClient(Timeouts(connect=0.05), max_connections=1)
    async with serving([STREAM + b"1\r\na\r\n"], [OK]) as (script, url):
        first = await client.post(url, "/v1/x", b"{}", token=None)
        with pytest.raises(Unavailable) as caught:
            await ask(client, url)
        assert caught.value.code == "upstream_timeout"
        first.close()
        assert await ask(client, url) == b"ok"
        assert script.opened == 2
        client.close()


async def test_an_answer_over_the_limit_is_refused(client):
    async with (
        serving([OK]) as (_, url),
        await client.post(url, "/v1/x", b"{}", token=None) as response,
    ):
        with pytest.raises(Unavailable):
            await response.read(1)


def test_urls():
    assert split_url("http://[::1]:80/a/") == (("::1", 80, False), "/a")
    assert split_url("https://engine.example") == (("engine.example", 443, True), "")
    for bad in ("ftp://x", "nothing", "http://"):
        with pytest.raises(PlatformError):
            split_url(bad)


async def test_a_line_break_cannot_become_a_header(client):
    with pytest.raises(PlatformError):
        await client.post("http://127.0.0.1:1", "/v1/x", b"", token="a\r\nx-evil: 1")
