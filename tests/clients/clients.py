"""httpx over HTTP/2 and websockets against the gateway on localhost, whose port and authority are the arguments.

Says nothing where all is well.
"""

import asyncio
import hashlib
import ssl
import sys
import time

import httpx
import websockets

port, authority = sys.argv[1:]
headers = {"Authorization": "Bearer 1|writer"}


async def by_http2():
    url = f"https://localhost:{port}"
    context = ssl.create_default_context(cafile=authority)
    async with httpx.AsyncClient(http2=True, verify=context, base_url=url, headers=headers) as client:
        answer = await client.get("/api/v2/items", params={"page": "2"})
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2"), answer
        assert answer.json()["url"] == "/api/v2/items?page=2"
        assert (await client.get("/api/v2/items", headers={"Authorization": ""})).status_code == 401
        assert (await client.delete("/api/v2/items")).json() == {"message": "This action is unauthorized."}

        # Many at once, over one connection.
        async def length(number):
            return (await client.post("/api/v2/items", content=b"a" * number)).json()["length"]

        assert await asyncio.gather(*map(length, range(80))) == list(range(80))

        body = bytes(range(256)) * 10_000
        said = (await client.post("/api/v2/items", content=body)).json()
        assert said["sha256"] == hashlib.sha256(body).hexdigest(), said

        # Several cookies are several fields in HTTP/2, and one again behind the gateway.
        cookies = [("Cookie", "a=1"), ("Cookie", "b=2")]
        assert (await client.get("/up", headers=cookies)).json()["headers"]["cookie"] == "a=1; b=2"

        async with client.stream("GET", "/api/v2/stream") as answer:
            came = [(piece, time.monotonic()) async for piece in answer.aiter_raw()]
        assert [piece for piece, _ in came] == [b"one", b"two", b"three"], came
        assert came[2][1] - came[0][1] > 0.4, came

        # Who leaves one stream goes on with the others.
        async with client.stream("GET", "/events") as answer:
            async for line in answer.aiter_lines():
                assert line == "id: 0", line
                break
        assert (await client.get("/up")).status_code == 200


async def by_websocket():
    url = f"wss://localhost:{port}"
    # Of its own: httpx offers HTTP/2 in the one that it is given.
    context = ssl.create_default_context(cafile=authority)
    async with websockets.connect(f"{url}/api/v2/ws", ssl=context, additional_headers=headers, max_size=None) as socket:
        for message in ["hello", "", "ü" * 1000, b"\0\xff" * 600_000]:
            await socket.send(message)
            assert await socket.recv() == message
        await asyncio.wait_for(await socket.ping(), 5)
        await socket.close(4001, "enough")
        assert socket.close_code == 4001, socket.close_code
    for more, status in [({}, 401), ({"Authorization": "Bearer 9|stranger"}, 401), ({"Authorization": "Bearer 2|reader"}, 403)]:
        try:
            await websockets.connect(f"{url}/api/v2/ws", ssl=context, additional_headers=more)
            raise AssertionError(f"{more} opened a tunnel")
        except websockets.InvalidStatus as refused:
            assert refused.response.status_code == status, refused


asyncio.run(by_http2())
asyncio.run(by_websocket())
