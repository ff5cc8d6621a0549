<?php

namespace App\Http;

class Kernel extends \Illuminate\Foundation\Http\Kernel
{
    protected $middlewareGroups = ['web' => [], 'api' => ['throttle:api']];

    protected $routeMiddleware = [
        'abilities' => \Laravel\Sanctum\Http\Middleware\CheckAbilities::class,
        'auth' => \Illuminate\Auth\Middleware\Authenticate::class,
        'throttle' => \Illuminate\Routing\Middleware\ThrottleRequests::class,
    ];
}
