<?php

use Illuminate\Http\Request;
use Illuminate\Support\Facades\Route;

Route::get('/v2/items', function (Request $request) {
    return ['token' => $request->user()->currentAccessToken()->getKey()];
})->middleware(['auth:sanctum', 'abilities:items:read']);
