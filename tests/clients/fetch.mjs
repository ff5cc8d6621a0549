// Node's fetch against the gateway at the URL that is the argument. Says nothing where all is well.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';

const url = process.argv[2];
const headers = { Authorization: 'Bearer 1|writer' };

const items = await fetch(`${url}/api/v2/items?page=2`, { headers });
assert.equal(items.status, 200);
assert.equal((await items.json()).url, '/api/v2/items?page=2');
assert.equal((await fetch(`${url}/api/v2/items`)).status, 401);
const denied = await fetch(`${url}/api/v2/items`, { method: 'DELETE', headers });
assert.deepEqual([denied.status, await denied.json()], [403, { message: 'This action is unauthorized.' }]);

// Many at once.
const all = await Promise.all(
    Array.from({ length: 50 }, async (_, number) => {
        const answer = await fetch(`${url}/api/v2/items`, { method: 'POST', headers, body: `${number}` });
        return (await answer.json()).length;
    }),
);
assert.deepEqual(all, Array.from({ length: 50 }, (_, number) => `${number}`.length));

// A body of unknown length, as it comes.
const pieces = Array.from({ length: 40 }, () => randomBytes(50_000));
const body = new ReadableStream({
    pull(controller) {
        const piece = pieces[this.next++];
        if (piece) controller.enqueue(piece);
        else controller.close();
    },
    next: 0,
});
const upload = await fetch(`${url}/api/v2/items`, { method: 'POST', headers, body, duplex: 'half' });
const said = await upload.json();
assert.equal(said.length, 2_000_000);
assert.equal(said.sha256, createHash('sha256').update(Buffer.concat(pieces)).digest('hex'));
assert.equal(said.headers['transfer-encoding'], 'chunked');

// An answer, piece by piece.
const stream = await fetch(`${url}/api/v2/stream`, { headers });
const came = [];
for await (const piece of stream.body) came.push([Buffer.from(piece).toString(), performance.now()]);
assert.deepEqual(came.map(([piece]) => piece), ['one', 'two', 'three']);
assert.ok(came[2][1] - came[0][1] > 400, 'it came at once');

// A client that leaves.
const leaving = new AbortController();
const events = await fetch(`${url}/events`, { signal: leaving.signal });
const reader = events.body.getReader();
assert.match(Buffer.from((await reader.read()).value).toString(), /^id: 0\nevent: tick/);
leaving.abort();
await assert.rejects(reader.read(), { name: 'AbortError' });
