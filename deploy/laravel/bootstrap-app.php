<?php

// Into bootstrap/app.php (Laravel 11 and later; before, the same two values are properties of
// app/Http/Middleware/TrustProxies.php).

use Illuminate\Foundation\Application;
use Illuminate\Foundation\Configuration\Middleware;
use Illuminate\Http\Request;

return Application::configure(basePath: dirname(__DIR__))
    ->withMiddleware(function (Middleware $middleware): void {
        $middleware->trustProxies(
            // The address that the gateway connects from: loopback for a sidecar, otherwise its address or network.
            // Never '*': any host that reaches Stockaj could then claim any client address.
            at: ['127.0.0.1', '::1'],
            // Exactly the fields that the gateway sets.
            headers: Request::HEADER_X_FORWARDED_FOR
                | Request::HEADER_X_FORWARDED_HOST
                | Request::HEADER_X_FORWARDED_PROTO,
        );
    })
    ->create();
