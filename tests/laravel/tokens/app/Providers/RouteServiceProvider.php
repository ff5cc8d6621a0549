<?php

namespace App\Providers;

use Illuminate\Cache\RateLimiting\Limit;
use Illuminate\Support\Facades\RateLimiter;
use Illuminate\Support\Facades\Route;

class RouteServiceProvider extends \Illuminate\Foundation\Support\Providers\RouteServiceProvider
{
    public function boot()
    {
        RateLimiter::for('api', function () {
            return Limit::perMinute((int) env('A_MINUTE', 1000));
        });
        $this->routes(function () {
            Route::prefix('api')->middleware('api')->group(base_path('routes/api.php'));
            Route::prefix('api')->middleware('api')->group(base_path('routes/items.php'));
        });
    }
}
