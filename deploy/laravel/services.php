<?php

// Into config/services.php.

return [
    'stockaj_gateway' => [
        // The admin listener of the gateway beside this application. Where several gateways share no Redis, of each
        // of them, separated by commas.
        'webhooks' => array_filter(explode(',', env('STOCKAJ_GATEWAY_WEBHOOKS', 'http://127.0.0.1:9090/webhook'))),
        // What the gateway has as `webhook.secret`.
        'secret' => env('STOCKAJ_GATEWAY_WEBHOOK_SECRET'),
    ],
];
