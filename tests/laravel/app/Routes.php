<?php

namespace App;

use Illuminate\Support\Facades\Route;

/** The routes of `routes.json`, which the test writes: [["GET", "api/v2/items/{id}"], …] in the order of matching. */
class Routes extends \Illuminate\Foundation\Support\Providers\RouteServiceProvider
{
    public function map()
    {
        foreach (json_decode(file_get_contents(base_path('routes.json')), true) as [$verb, $path]) {
            // As in Route::get(): what answers GET answers HEAD.
            $verbs = $verb === 'GET' ? ['GET', 'HEAD'] : [$verb];
            Route::match($verbs, str_replace('{*', '{', $path), Controller::class)->where('rest', '.+');
        }
    }
}
