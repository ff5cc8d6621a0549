<?php

// app/Observers/PersonalAccessTokenObserver.php

namespace App\Observers;

use App\Jobs\NotifyGateway;
use Laravel\Sanctum\PersonalAccessToken;
use Throwable;

/** Tells every gateway which token was changed or deleted, so that it forgets what it knows of it. */
class PersonalAccessTokenObserver
{
    public function updated(PersonalAccessToken $token): void
    {
        // Sanctum saves a token at each use of it, an introspection too. Whatever else changes, counts.
        if (array_diff(array_keys($token->getChanges()), ['last_used_at', 'updated_at'])) {
            $this->notify('token.updated', $token);
        }
    }

    public function deleted(PersonalAccessToken $token): void
    {
        $this->notify('token.deleted', $token);
    }

    private function notify(string $event, PersonalAccessToken $token): void
    {
        $id = $token->getKey();

        // Not before others see the change: a gateway that has forgotten a token asks again at its next request, and
        // would hear and keep the old answer.
        $token->getConnection()->afterCommit(function () use ($event, $id): void {
            foreach (config('services.stockaj_gateway.webhooks') as $url) {
                try {
                    NotifyGateway::dispatchSync($url, $event, $id);
                } catch (Throwable $error) {
                    // The token is changed, whatever the gateway says: on with it, from the queue, until it arrives.
                    report($error);
                    NotifyGateway::dispatch($url, $event, $id)->delay(1);
                }
            }
        });
    }
}
