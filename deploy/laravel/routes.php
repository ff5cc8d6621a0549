<?php

// Into routes/api.php, whose routes are under /api: this one is GET /api/v2/token.

use App\Http\Controllers\ShowTokenController;
use Illuminate\Support\Facades\Route;

// All introspection comes from the gateway's one address, so a limit by client would count every client
// as one, and a 429 here becomes a 503 there. The gateway bounds its calls itself (max_concurrent).
Route::get('/v2/token', ShowTokenController::class)
    ->middleware('auth:sanctum')
    ->withoutMiddleware('throttle:api');
