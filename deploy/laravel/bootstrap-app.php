<?php

// Into bootstrap/app.php (Laravel 11 and later; before, the same two values of `trustProxies` are properties of
// app/Http/Middleware/TrustProxies.php).

use Illuminate\Foundation\Application;
use Illuminate\Foundation\Configuration\Exceptions;
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

        // Laravel looks up the route `login` for a request without a valid token that does not accept JSON. If there is
        // none, as in an application with an API only, it answers 500. If there is one, remove this line: guests of
        // pages are then still redirected.
        $middleware->redirectGuestsTo(fn () => null);
    })
    ->withExceptions(function (Exceptions $exceptions): void {
        // 401 instead of a redirect for the API, whatever the request accepts: only a 401 makes the gateway drop the
        // verdict of a deleted token.
        $exceptions->shouldRenderJsonWhen(
            fn (Request $request) => $request->is('api/*') || $request->expectsJson(),
        );
    })
    ->create();
