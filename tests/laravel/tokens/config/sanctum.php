<?php

return [
    'expiration' => env('SANCTUM_EXPIRATION'),
    'guard' => ['web'],
    'stateful' => ['stateful.example'],
    // Laravel 11 has the package's default.
    'middleware' => ['validate_csrf_token' => Illuminate\Foundation\Http\Middleware\VerifyCsrfToken::class],
];
