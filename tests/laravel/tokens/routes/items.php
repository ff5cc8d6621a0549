<?php

use App\Models\User;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Auth;
use Illuminate\Support\Facades\Route;

Route::get('/v2/items', function (Request $request) {
    return [
        'token' => $request->user()->currentAccessToken()->getKey(),
        'workspace' => $request->header('X-Workspace-Id'),
    ];
})->middleware(['auth:sanctum', 'abilities:items:read']);

Route::get('/v2/every', fn () => 'both')->middleware(['auth:sanctum', 'abilities:items:read,rents:read']);
Route::get('/v2/some', fn () => 'either')->middleware(['auth:sanctum', 'ability:items:read,rents:read']);
Route::get('/v2/may/{ability}', function (Request $request, string $ability) {
    return ['may' => $request->user()->tokenCan($ability)];
})->middleware('auth:sanctum');

Route::get('/v2/session', function () {
    Auth::guard('web')->login(User::first());

    return ['user' => 1];
});
Route::get('/login', fn () => 'a form')->name('login');
