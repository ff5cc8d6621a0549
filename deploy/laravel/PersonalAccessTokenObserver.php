<?php

// app/Observers/PersonalAccessTokenObserver.php

namespace App\Observers;

use App\Jobs\NotifyGateway;
use Laravel\Sanctum\PersonalAccessToken;
use Throwable;

/** Tells every gateway which token was changed or deleted, so that it drops the token's verdict. */
class PersonalAccessTokenObserver
{
    public function updated(PersonalAccessToken $token): void
    {
        // Sanctum saves a token at each use, also at introspection. All other changes count.
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

        // After the commit: a gateway that introspects the token before others see the change would cache the old
        // answer.
        $token->getConnection()->afterCommit(function () use ($event, $id): void {
            foreach (config('services.stockaj_gateway.webhooks') as $url) {
                try {
                    NotifyGateway::dispatchSync($url, $event, $id);
                } catch (Throwable $error) {
                    // The change of the token stands. The queue retries until the gateway has accepted the webhook.
                    report($error);
                    NotifyGateway::dispatch($url, $event, $id)->delay(1);
                }
            }
        });
    }
}
