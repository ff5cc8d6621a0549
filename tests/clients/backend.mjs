// A backend for clients that are not ours: it echoes, streams and speaks WebSocket. Prints its port.
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

const server = createServer(async (request, answer) => {
    const path = request.url.split('?')[0];
    if (path === '/page') {
        answer.setHeader('Content-Type', 'text/html').end('<!doctype html><title>ready</title>');
    } else if (path === '/events') {
        answer.writeHead(200, { 'Content-Type': 'text/event-stream' });
        for (let number = 0; number < 3; number++) {
            answer.write(`id: ${number}\nevent: tick\ndata: {"number": ${number}}\n\n`);
            await pause(300);
        }
        // Open for as long as its client likes.
    } else if (path === '/api/v2/stream') {
        answer.writeHead(200, { 'Content-Type': 'text/plain' });
        for (const piece of ['one', 'two', 'three']) {
            answer.write(piece);
            await pause(300);
        }
        answer.end();
    } else {
        const hash = createHash('sha256');
        let length = 0;
        for await (const piece of request) {
            hash.update(piece);
            length += piece.length;
        }
        const { method, url, headers } = request;
        answer.setHeader('Content-Type', 'application/json');
        answer.end(JSON.stringify({ method, url, headers, length, sha256: hash.digest('hex') }));
    }
});

// RFC 6455: whole frames are echoed, as pongs where they are pings.
server.on('upgrade', (request, socket, head) => {
    const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
    const accept = createHash('sha1').update(key).digest('base64');
    socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
            `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    let unread = head;
    const frame = () => {
        if (unread.length < 2) return null;
        let [length, start] = [unread[1] & 127, 2];
        if (length === 126) {
            if (unread.length < 4) return null;
            [length, start] = [unread.readUInt16BE(2), 4];
        } else if (length === 127) {
            if (unread.length < 10) return null;
            [length, start] = [Number(unread.readBigUInt64BE(2)), 10];
        }
        if (unread.length < start + 4 + length) return null;
        const [mask, payload] = [unread.subarray(start, start + 4), unread.subarray(start + 4, start + 4 + length)];
        const [first, clear] = [unread[0], Buffer.from(payload.map((byte, index) => byte ^ mask[index % 4]))];
        unread = unread.subarray(start + 4 + length);
        return { first, clear };
    };
    const send = (first, payload) => {
        const length = payload.length;
        const size = Buffer.alloc(length < 126 ? 1 : length < 65536 ? 3 : 9);
        if (length < 126) size[0] = length;
        else if (length < 65536) size.writeUInt16BE(length, 1), (size[0] = 126);
        else size.writeBigUInt64BE(BigInt(length), 1), (size[0] = 127);
        socket.write(Buffer.concat([Buffer.from([first]), size, payload]));
    };
    const take = () => {
        for (let came = frame(); came; came = frame()) {
            const kind = came.first & 15;
            send(kind === 9 ? 0x8a : came.first, came.clear);
            if (kind === 8) socket.end();
        }
    };
    socket.on('data', (bytes) => {
        unread = Buffer.concat([unread, bytes]);
        take();
    });
    socket.on('error', () => socket.destroy());
    take();
});

server.listen(0, '127.0.0.1', () => console.log(server.address().port));
