<?php

// Into config/services.php.

return [
    'stockaj_gateway' => [
        // The admin listener of the gateway beside this application. If several gateways share no Redis, list all of them,
        // separated by commas.
        'webhooks' => array_filter(explode(',', env('STOCKAJ_GATEWAY_WEBHOOKS', 'http://127.0.0.1:9090/webhook'))),
        // The text in the gateway's `webhook.secret_file`.
        'secret' => env('STOCKAJ_GATEWAY_WEBHOOK_SECRET'),
    ],
];
