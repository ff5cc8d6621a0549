<?php

namespace App\Providers;

use Illuminate\Cache\RateLimiting\Limit;
use Illuminate\Support\Facades\RateLimiter;
use Illuminate\Support\Facades\Route;

class RouteServiceProvider extends \Illuminate\Foundation\Support\Providers\RouteServiceProvider
{
    public function boot()
    {
        RateLimiter::for('api', fn () => Limit::perMinute((int) env('A_MINUTE', 1000)));
        foreach (['api', 'items'] as $file) {
            Route::middleware('api')->prefix('api')->group(base_path("routes/$file.php"));
        }
    }
}
