<?php

// app/Jobs/NotifyGateway.php

namespace App\Jobs;

use Illuminate\Bus\Queueable;
use Illuminate\Contracts\Queue\ShouldQueue;
use Illuminate\Foundation\Bus\Dispatchable;
use Illuminate\Queue\InteractsWithQueue;
use Illuminate\Support\Facades\Http;
use LogicException;

/** Sends one webhook to one gateway, signed as Stockaj signs its webhooks. A repeated webhook does no harm. */
class NotifyGateway implements ShouldQueue
{
    use Dispatchable, InteractsWithQueue, Queueable;

    public int $tries = 12;

    /** In seconds: longer than a gateway uses a verdict anyway (`cache.ttl` and `stale_if_error`). */
    public array $backoff = [1, 1, 2, 5, 10, 30];

    public function __construct(public string $url, public string $event, public int|string $id)
    {
    }

    public function handle(): void
    {
        $secret = config('services.stockaj_gateway.secret');

        // hash_hmac would sign with an empty key, which the gateway rejects without saying why.
        if (! is_string($secret) || $secret === '') {
            throw new LogicException('STOCKAJ_GATEWAY_WEBHOOK_SECRET is not set: it is the secret of `webhook` in gateway.yaml.');
        }

        $body = json_encode(['event' => $this->event, 'data' => ['id' => $this->id]], JSON_THROW_ON_ERROR);

        Http::timeout(2)
            ->withHeaders([
                'X-Stockaj-Event' => $this->event,
                // The signature covers exactly these bytes. Encoding the body again could change them.
                'X-Stockaj-Signature' => hash_hmac('sha256', $body, $secret),
            ])
            ->withBody($body, 'application/json')
            ->post($this->url)
            ->throw();
    }
}
