<?php

// Into routes/api.php, whose routes are under /api: this one is GET /api/v2/token.

use App\Http\Controllers\ShowTokenController;
use Illuminate\Support\Facades\Route;

// All introspections come from the gateway's address, so a limit by client would count all clients as one, and the
// gateway answers 503 if it gets 429 here. The gateway limits its calls itself (max_concurrent).
Route::get('/v2/token', ShowTokenController::class)
    ->middleware('auth:sanctum')
    ->withoutMiddleware('throttle:api');
