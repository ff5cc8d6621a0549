<?php

// Into app/Providers/AppServiceProvider.php.

namespace App\Providers;

use App\Observers\PersonalAccessTokenObserver;
use Illuminate\Support\ServiceProvider;
use Laravel\Sanctum\Sanctum;

class AppServiceProvider extends ServiceProvider
{
    public function boot(): void
    {
        Sanctum::personalAccessTokenModel()::observe(PersonalAccessTokenObserver::class);
    }
}
